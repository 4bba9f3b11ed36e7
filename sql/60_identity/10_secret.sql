-- Secrets. The keys behind them lie in files outside of the database (loyalty.secret_dir);
-- none of these functions is for anybody but the functions of this schema.

create function loyalty_private.hash_password(password text) returns text
    language c volatile strict
    as 'MODULE_PATHNAME', 'loyalty_hash_password';
comment on function loyalty_private.hash_password is
    'The Argon2id hash of a password to be stored: 19 MiB, two passes, one lane, its own salt.';

create function loyalty_private.check_password(password text, password_hash text) returns boolean
    language c volatile
    as 'MODULE_PATHNAME', 'loyalty_check_password';
comment on function loyalty_private.check_password is
    'Whether it is the password of the hash. Without a hash it is not, after as much work.';

create function loyalty_private.check_password_policy(
    password text, login_id text, length integer, letters integer, digits integer, symbols boolean
) returns void
    language c immutable parallel safe
    as 'MODULE_PATHNAME', 'loyalty_check_password_policy';
comment on function loyalty_private.check_password_policy is
    'Refuses a password that a policy does not take (guide C12): 22023 says why.';

create function loyalty_private.keyed_hashes(usage text, value text) returns bytea[]
    language c stable
    as 'MODULE_PATHNAME', 'loyalty_keyed_hashes';
comment on function loyalty_private.keyed_hashes is
    'Hashes (HMAC-SHA256) by which a secret value is stored and found again: the first with the key in use, then with those still believed.';

create function loyalty_private.keyed_code(usage text, value text, digits integer) returns text
    language c stable
    as 'MODULE_PATHNAME', 'loyalty_keyed_code';
comment on function loyalty_private.keyed_code is
    'The code of so many digits, or with 0 the token, that the key in use makes of a value.';

create function loyalty_private.is_keyed_code(usage text, value text, digits integer, given text) returns boolean
    language c stable
    as 'MODULE_PATHNAME', 'loyalty_is_keyed_code';
comment on function loyalty_private.is_keyed_code is
    'Whether what was given is the code of a value, by any key still believed; compared in constant time.';

create function loyalty_private.random_token() returns text
    language c volatile
    as 'MODULE_PATHNAME', 'loyalty_random_token';
comment on function loyalty_private.random_token is '256 random bits, as base64url.';

create function loyalty_private.sign_token(claims text) returns text
    language c volatile
    as 'MODULE_PATHNAME', 'loyalty_sign_token';
comment on function loyalty_private.sign_token is
    'A token (JWT, HS256) of a JSON object of claims, signed with the key that PostgREST believes.';

create function loyalty_private.clean_login_id(login_id text) returns text
    language c immutable strict parallel safe
    as 'MODULE_PATHNAME', 'loyalty_clean_login_id';
comment on function loyalty_private.clean_login_id is
    'A login ID as it is stored: an e-mail address in lower case, or a phone number as E.164; null for what is neither.';
