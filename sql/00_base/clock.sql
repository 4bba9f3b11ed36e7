create function loyalty.now() returns timestamptz
    language c stable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_now';
comment on function loyalty.now() is
    'The time that the ledger goes by: the real one, or the test clock where the setting loyalty.clock is set.';

-- For what plpgsql refuses, with the HTTP status where PostgREST asks.
create function loyalty.raise(code text, message text, detail text default null, hint text default null)
    returns void
    language c volatile
    as 'MODULE_PATHNAME', 'loyalty_raise';
comment on function loyalty.raise is
    'Raises an error of the ledger''s own: code, message, the figures, the way out. In a PostgREST request it carries its HTTP status.';
