-- API keys at rest: in plain, protected by grants alone, or sealed by a master key that this database never sees (keyring.py):
-- 'sealed:1:' (the form's version), the master key's id, ':', base64url of nonce, ciphertext and tag, bound to the account.

-- What begins as a sealed key does is one, of a form that is known: nobody's own key can be taken for one. A sealed key is a
-- third longer than the key in it, and has to fit into the index that keeps keys unique.
alter table bisd.account
    add constraint account_api_key_form check (
        case when api_key ~ '^sealed:[0-9]+:' then api_key ~ '^sealed:1:[0-9a-f]{16}:[A-Za-z0-9_-]{38,}$'
             else octet_length(api_key) <= 1024 end),
    add constraint account_previous_api_key_form check (
        case when previous_api_key ~ '^sealed:[0-9]+:' then previous_api_key ~ '^sealed:1:[0-9a-f]{16}:[A-Za-z0-9_-]{38,}$'
             else octet_length(previous_api_key) <= 1024 end);

-- The id of the master key that all of the account's keys are sealed under; '' while one is in plain, 'mixed' if they are
-- sealed under several.
alter table bisd.account add column sealed_under text collate "C" not null generated always as (
    case
        when api_key !~ '^sealed:1:' or previous_api_key !~ '^sealed:1:' then ''
        when left(previous_api_key, 25) <> left(api_key, 25) then 'mixed'
        else substr(api_key, 10, 16)
    end) stored;

-- What is not under the current master key lies on either side of it, and is found at once, or found not to be there.
create index account_sealed_under on bisd.account (sealed_under, id);

-- Replaces keys by the same keys sealed, where they are still those that were read; answers the accounts it did. What was read
-- is told by its SHA-256: no key in plain travels in a statement, from where it could get into the server's log. Locks in the
-- order of ids, so that two at once do not wait for each other in a circle.
create function bisd.seal_keys(
    ids bigint[], api_keys_read bytea[], previous_read bytea[], api_keys text[], previous_api_keys text[]) returns setof bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if exists (select from unnest(api_keys || previous_api_keys) sealed where sealed !~ '^sealed:1:') then
        raise exception 'bisd: only sealed keys may take the place of keys'
            using errcode = 'BISD0', hint = 'bisd keys seal seals them.';
    end if;
    return query
    with batch as materialized (
        select *
        from unnest(ids, api_keys_read, previous_read, api_keys, previous_api_keys)
            as b (id, api_key_read, previous_read, api_key, previous_api_key)
    ), unchanged as materialized (
        select b.*
        from batch b
        join bisd.account a on a.id = b.id
        where sha256(convert_to(a.api_key, 'UTF8')) = b.api_key_read
          and sha256(convert_to(a.previous_api_key, 'UTF8')) is not distinct from b.previous_read
        order by a.id
        for update of a
    )
    update bisd.account a
    set api_key = u.api_key, previous_api_key = u.previous_api_key
    from unchanged u
    where a.id = u.id
    returning a.id;
end $$;

revoke all on function bisd.seal_keys(bigint[], bytea[], bytea[], text[], text[]) from public;

do $$
begin
    if exists (select from pg_catalog.pg_roles where rolname = 'bisd_daemon') then
        grant execute on function bisd.seal_keys(bigint[], bytea[], bytea[], text[], text[]) to bisd_daemon;
    end if;
end $$;
