create function loyalty.now() returns timestamptz
    language c stable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_now';
comment on function loyalty.now() is
    'The time that the ledger goes by: the real one, or the test clock where the setting loyalty.clock is set.';

-- For what plpgsql refuses, with the HTTP status where PostgREST asks.
create function loyalty_private.raise(
    code text, reason text, message text, detail text default null, hint text default null, field text default null
) returns void
    language c volatile
    as 'MODULE_PATHNAME', 'loyalty_raise';
comment on function loyalty_private.raise is
    'Raises an error: its code, a word for programs (docs/errors.md), the message, the figures, the way out, and the argument that it is about. The word arrives as the error''s constraint name, the argument as its column name; in a PostgREST request as the headers Loyalty-Reason and Loyalty-Field, with the code''s HTTP status.';

create function loyalty_private.refusal(
    code text, reason text, message text, detail text, hint text, field text, retry_after_seconds bigint
) returns text
    language c stable
    as 'MODULE_PATHNAME', 'loyalty_refusal';
comment on function loyalty_private.refusal is
    'For loyalty.refuse: what loyalty_private.raise would send, as the text of a JSON object with status, headers and body.';
