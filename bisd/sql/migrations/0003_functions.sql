-- What an application, an operator and the command line call.
-- Requests that cannot be carried out are refused with SQLSTATE BISD0, a sentence that says why, and a hint what to do.

-- 256 random bits: gen_random_uuid draws from the server's strong generator, 122 bits a time.
create function bisd.new_api_key() returns text
language sql volatile set search_path = pg_catalog, pg_temp as $$
    select 'bis_' || encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'hex')
$$;

create function bisd.create_account(name text, plan text, out id bigint, out api_key text)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if coalesce(name, '') = '' then
        raise exception 'bisd: an account needs a name'
            using errcode = 'BISD0', hint = 'Any text that tells you whose it is.';
    end if;
    if not exists (select from bisd.plan p where p.name = create_account.plan) then
        raise exception 'bisd: there is no plan "%"', plan
            using errcode = 'BISD0',
                  hint = 'The plans are ' || (select string_agg(p.name, ', ' order by p.webhooks, p.name) from bisd.plan p) || '.';
    end if;
    insert into bisd.account as a (name, plan, api_key)
    values (create_account.name, create_account.plan, bisd.new_api_key())
    returning a.id, a.api_key into create_account.id, create_account.api_key;
end $$;

create function bisd.require_account(account_id bigint) returns void
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    if not exists (select from bisd.account a where a.id = account_id) then
        raise exception 'bisd: there is no account %', account_id
            using errcode = 'BISD0', hint = 'bisd account list shows those there are.';
    end if;
end $$;

create function bisd.require_topic(topic text) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    if topic is null or topic !~ '^[!-~]{1,128}$' then
        raise exception 'bisd: "%" cannot be a topic', topic
            using errcode = 'BISD0',
                  hint = 'A topic is 1 to 128 visible ASCII characters without spaces, like order/paid.';
    end if;
end $$;

-- Switched off until enabled.
create function bisd.create_webhook(account_id bigint, topic text, url text) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    created bigint;
begin
    perform bisd.require_account(create_webhook.account_id);
    perform bisd.require_topic(create_webhook.topic);
    if url is null or url !~ '^https?://[^[:space:][:cntrl:]]+$' or length(url) > 2048 then
        raise exception 'bisd: "%" cannot be a webhook''s URL', left(url, 100)
            using errcode = 'BISD0',
                  hint = 'It starts with https://, has no spaces and at most 2048 characters.';
    end if;
    insert into bisd.webhook (account_id, topic, url)
    values (create_webhook.account_id, create_webhook.topic, create_webhook.url)
    returning id into created;
    return created;
end $$;

create function bisd.switch_webhook(id bigint, enabled boolean) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    update bisd.webhook w set enabled = switch_webhook.enabled where w.id = switch_webhook.id;
    if not found then
        raise exception 'bisd: there is no webhook %', id
            using errcode = 'BISD0', hint = 'bisd webhook list shows those there are.';
    end if;
end $$;

-- Its deliveries that were held go out.
create function bisd.enable_webhook(id bigint) returns void
language sql security definer set search_path = pg_catalog, pg_temp as $$
    select bisd.switch_webhook(id, true)
$$;

-- What it is owed stays and is held.
create function bisd.disable_webhook(id bigint) returns void
language sql security definer set search_path = pg_catalog, pg_temp as $$
    select bisd.switch_webhook(id, false)
$$;

-- Octets of a body that `emit` takes; equal to the default of the daemon's max_body_bytes.
create function bisd.max_body_bytes() returns integer
language sql immutable parallel safe as $$ select 1048576 $$;

-- An event of any topic; the bytes of `body` are sent as they were given. Answers the event's id.
create function bisd.emit(account_id bigint, topic text, body json) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    emitted bigint;
begin
    perform bisd.require_account(emit.account_id);
    perform bisd.require_topic(emit.topic);
    if body is null then
        raise exception 'bisd: the body of an event cannot be NULL'
            using errcode = 'BISD0', hint = 'The JSON text null is possible: ''null''::json.';
    end if;
    if octet_length(body::text) > bisd.max_body_bytes() then
        raise exception 'bisd: the body has % bytes, more than the % that are allowed', octet_length(body::text), bisd.max_body_bytes()
            using errcode = 'BISD0', hint = 'Send a reference to what is large, not the thing itself.';
    end if;
    insert into bisd.event (account_id, topic, body) values (emit.account_id, emit.topic, emit.body) returning id into emitted;
    return emitted;
end $$;

-- What is owed and what was settled, in one shape. A settled delivery is told by its last attempt; one that was settled
-- twice (owed again by a replay) by the later one.
create view bisd.delivery_status as
select
    d.event_id,
    d.webhook_id,
    w.account_id,
    w.topic,
    case when not (w.enabled and p.webhooks) then 'held' when d.attempts = 0 then 'pending' else 'retrying' end as state,
    d.attempts,
    last.status::integer as last_status,
    last.code as last_error,
    case when w.enabled and p.webhooks then d.due_at end as next_attempt_at,
    d.event_created_at as created_at,
    null::timestamptz as settled_at
from bisd.delivery d
join bisd.webhook w on w.id = d.webhook_id
join bisd.account c on c.id = w.account_id
join bisd.plan p on p.name = c.plan
left join lateral (
    select a.status, a.code
    from bisd.attempt a
    where d.attempts > 0 and a.event_id = d.event_id and a.webhook_id = d.webhook_id
    order by a.attempted_at desc
    limit 1
) last on true
union all
select
    a.event_id,
    a.webhook_id,
    w.account_id,
    w.topic,
    a.verdict::text,
    coalesce(a.number, last.number, 0),
    coalesce(a.status, last.status)::integer,
    coalesce(a.code, last.code),
    null,
    a.event_created_at,
    a.attempted_at + coalesce(a.total_ms, 0) * interval '1 millisecond'
from bisd.attempt a
join bisd.webhook w on w.id = a.webhook_id
left join lateral (
    -- What was POSTed last, for a delivery that was settled without a POST.
    select posted.number, posted.status, posted.code
    from bisd.attempt posted
    where a.number is null and posted.number is not null
      and posted.event_id = a.event_id and posted.webhook_id = a.webhook_id and posted.attempted_at <= a.attempted_at
    order by posted.attempted_at desc
    limit 1
) last on true
where a.verdict <> 'retry'
  and not exists (select from bisd.delivery d where d.webhook_id = a.webhook_id and d.event_id = a.event_id)
  and not exists (
    select from bisd.attempt later
    where later.event_id = a.event_id and later.webhook_id = a.webhook_id
      and later.attempted_at > a.attempted_at and later.verdict <> 'retry');

-- Transaction ids belong to one cluster. Rows restored from another's dump may bear ids of the future and would arrive for
-- ever: they are stamped anew. Answers how many were. Asked at every start of a daemon; normally it finds none, by index.
create function bisd.restamp() returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    future xid8 := pg_snapshot_xmax(pg_current_snapshot());
    deliveries bigint;
    webhooks bigint;
begin
    update bisd.delivery set txid = pg_current_xact_id() where txid >= future;
    get diagnostics deliveries = row_count;
    update bisd.webhook set url = url where txid >= future;
    get diagnostics webhooks = row_count;
    return deliveries + webhooks;
end $$;
