-- What an application, an operator and the command line call.
-- Requests that cannot be carried out are refused with SQLSTATE BISD0, a sentence that says why, and a hint what to do.

-- 256 random bits: gen_random_uuid draws from the server's strong generator, 122 bits a time.
create function bisd.new_api_key() returns text
language sql volatile set search_path = pg_catalog, pg_temp as $$
    select 'bis_' || encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'hex')
$$;

create function bisd.require_plan(plan text) returns void
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    if not exists (select from bisd.plan p where p.name = require_plan.plan) then
        raise exception 'bisd: there is no plan "%"', plan
            using errcode = 'BISD0',
                  hint = 'The plans are ' || (select string_agg(p.name, ', ' order by p.webhooks, p.name) from bisd.plan p) || '.';
    end if;
end $$;

create function bisd.create_account(name text, plan text, out id bigint, out api_key text)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if coalesce(name, '') = '' then
        raise exception 'bisd: an account needs a name'
            using errcode = 'BISD0', hint = 'Any text that tells you whose it is.';
    end if;
    perform bisd.require_plan(create_account.plan);
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

-- From now on the account signs with a new key, and answers it. Until `overlap` has passed the one before it signs too, so that
-- receivers can change over; one that was overlapping from an earlier rotation ends now.
create function bisd.rotate_key(account_id bigint, overlap interval) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    fresh text := bisd.new_api_key();
begin
    perform bisd.require_account(rotate_key.account_id);
    if overlap is null or overlap < interval '0' or overlap > interval '90 days' then
        raise exception 'bisd: two keys cannot overlap for %', coalesce(overlap::text, 'no known time')
            using errcode = 'BISD0', hint = 'From no time at all, ''0'', to 90 days; ''24 hours'' is usual.';
    end if;
    update bisd.account a
    set api_key = fresh,
        previous_api_key = case when overlap > interval '0' then a.api_key end,
        previous_until = case when overlap > interval '0' then now() + overlap end
    where a.id = rotate_key.account_id;
    return fresh;
end $$;

-- Its webhooks stop at once if the new plan has none, and go on if it has.
create function bisd.set_plan(account_id bigint, plan text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform bisd.require_account(set_plan.account_id);
    perform bisd.require_plan(set_plan.plan);
    update bisd.account a set plan = set_plan.plan where a.id = set_plan.account_id and a.plan <> set_plan.plan;
end $$;

create function bisd.require_url(url text) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    if bisd.url_fault(url) is not null then
        raise exception 'bisd: "%" cannot be a webhook''s URL: %', left(url, 100), bisd.url_fault(url)
            using errcode = 'BISD0', hint = 'Give one like https://teas.example.com/hooks.';
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
    perform bisd.require_url(create_webhook.url);
    insert into bisd.webhook (account_id, topic, url)
    values (create_webhook.account_id, create_webhook.topic, create_webhook.url)
    returning id into created;
    return created;
end $$;

-- Locks the webhook's row until the transaction ends: after its account's, and before what it is owed, as everybody does. One
-- that was removed is none.
create function bisd.require_webhook(id bigint) returns bisd.webhook
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    webhook bisd.webhook;
begin
    perform bisd.keep_plan(w.account_id) from bisd.webhook w where w.id = require_webhook.id;
    select w.* into webhook from bisd.webhook w where w.id = require_webhook.id and w.removed_at is null for update;
    if not found then
        raise exception 'bisd: there is no webhook %', id
            using errcode = 'BISD0', hint = 'bisd webhook list shows those there are.';
    end if;
    return webhook;
end $$;

-- What it is owed was changed beneath its daemon, which reads it again.
create function bisd.reread_webhook(id bigint) returns void
language sql security definer set search_path = pg_catalog, pg_temp as $$
    update bisd.webhook w set url = w.url where w.id = reread_webhook.id
$$;

-- Some of its settings, from a JSON object; null sets one back to its default. What it keeps failing with is forgotten with
-- its URL.
create function bisd.set_webhook(id bigint, settings jsonb) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    webhook bisd.webhook := bisd.require_webhook(set_webhook.id);
    known text[] := array['url', 'description', 'max_in_flight', 'rate', 'ordered', 'headers', 'filter'];
    unknown text;
    fault text;
begin
    if jsonb_typeof(settings) is distinct from 'object' then
        raise exception 'bisd: the settings of a webhook are a JSON object'
            using errcode = 'BISD0', hint = 'Like {"rate": 10, "description": "CRM"}.';
    end if;
    select min(key) into unknown from jsonb_object_keys(settings) key where key <> all (known);
    if unknown is not null then
        raise exception 'bisd: "%" is no setting of a webhook', left(unknown, 100)
            using errcode = 'BISD0', hint = 'There are ' || array_to_string(known, ', ') || '.';
    end if;
    if settings ? 'url' then
        perform bisd.require_url(settings ->> 'url');
    end if;
    begin
        fault := coalesce(
            case when settings -> 'headers' <> 'null' then bisd.header_fault(settings -> 'headers') end,
            bisd.filter_fault((settings ->> 'filter')::jsonpath));
        if fault is null then
            update bisd.webhook w
            set url = case when settings ? 'url' then settings ->> 'url' else w.url end,
                description = case when settings ? 'description' then coalesce(settings ->> 'description', '') else w.description end,
                max_in_flight = case when settings ? 'max_in_flight' then (settings ->> 'max_in_flight')::integer else w.max_in_flight end,
                rate = case when settings ? 'rate' then (settings ->> 'rate')::double precision else w.rate end,
                ordered = case when settings ? 'ordered' then coalesce((settings ->> 'ordered')::boolean, false) else w.ordered end,
                headers = case when settings ? 'headers' then coalesce(nullif(settings -> 'headers', 'null'), '{}') else w.headers end,
                filter = case when settings ? 'filter' then (settings ->> 'filter')::jsonpath else w.filter end
            where w.id = set_webhook.id;
        end if;
    exception
        when data_exception or syntax_error or undefined_object then
            fault := 'a setting has a value of another kind, or a filter that is no SQL/JSON path: ' || sqlerrm;
        when check_violation then
            fault := 'description has at most 200 characters, max_in_flight lies between 1 and 10000, rate between 0.001 and 100000';
    end;
    if fault is not null then
        raise exception 'bisd: %', fault
            using errcode = 'BISD0', hint = 'Nothing was changed.';
    end if;
    if webhook.enabled and settings ? 'url' and settings ->> 'url' <> webhook.url then
        perform bisd.enable_webhook(set_webhook.id);
    end if;
end $$;

-- Cancels everything it is owed; answers how many.
create function bisd.cancel_all(webhook_id bigint) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    cancelled bigint;
begin
    with gone as (
        delete from bisd.delivery d where d.webhook_id = cancel_all.webhook_id
        returning d.event_id, d.event_created_at, d.test
    )
    insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, verdict, test)
    select g.event_id, cancel_all.webhook_id, clock_timestamp(), g.event_created_at, 'cancelled', g.test
    from gone g;
    get diagnostics cancelled = row_count;
    return cancelled;
end $$;

-- What it is owed goes out now, whatever its retries would have waited; or, with `held` 'discard', is cancelled. Whoever
-- switches on says that all is well: what it kept failing with is forgotten, and its deliveries have their full time again.
create function bisd.enable_webhook(id bigint, held text default 'resume') returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform bisd.require_webhook(enable_webhook.id);
    if held is null or held not in ('resume', 'discard') then
        raise exception 'bisd: what a webhook is owed cannot be treated as "%"', held
            using errcode = 'BISD0', hint = 'It is either to resume or to discard.';
    end if;
    if held = 'discard' then
        perform bisd.cancel_all(enable_webhook.id);
    end if;
    -- What a replay has spread over time keeps its pace, however much of that time has passed.
    update bisd.delivery d set due_at = d.due_at + (now() - first.due_at)
    from (select min(r.due_at) as due_at from bisd.delivery r
          where r.webhook_id = enable_webhook.id and r.replayed and r.attempts = 0) first
    where d.webhook_id = enable_webhook.id and d.replayed and d.attempts = 0 and first.due_at < now();
    update bisd.delivery d set due_at = now(), txid = pg_current_xact_id()
    where d.webhook_id = enable_webhook.id and d.due_at > now() and not (d.replayed and d.attempts = 0);
    update bisd.webhook w
    set enabled = true, off_reason = null, switched_at = now(), resumed_at = now(),
        failing_since = null, failures = 0, warned = 0, deactivates_at = null, next_probe_at = null, probes = 0,
        recovered_at = null, note = format('switched on since %s', bisd.utc(now()))
    where w.id = enable_webhook.id;
end $$;

-- What it is owed stays and is held.
create function bisd.disable_webhook(id bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform bisd.require_webhook(disable_webhook.id);
    update bisd.webhook w
    set enabled = false, off_reason = 'owner', switched_at = now(), failing_since = null, failures = 0, warned = 0,
        deactivates_at = null, next_probe_at = null, probes = 0, note = format('switched off by its owner at %s', bisd.utc(now()))
    where w.id = disable_webhook.id;
end $$;

-- What it is owed is cancelled; what was sent is remembered for as long as attempts are kept, and the row with it.
create function bisd.remove_webhook(id bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform bisd.require_webhook(remove_webhook.id);
    update bisd.webhook w
    set enabled = false, removed_at = now(), off_reason = 'owner', switched_at = now(), failing_since = null, failures = 0,
        warned = 0, deactivates_at = null, next_probe_at = null, probes = 0, note = format('removed at %s', bisd.utc(now()))
    where w.id = remove_webhook.id;
    perform bisd.cancel_all(remove_webhook.id);
end $$;

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

-- The bodies of tests of other topics, and of what happened to webhooks.
create type bisd.sample_body as (topic text, "timestamp" text);
create type bisd.webhook_subscription as (topic text, description text);
create type bisd.webhook_body as (
    webhook_id bigint, topic text, "timestamp" text, webhook bisd.webhook_subscription, note text, failing_since text,
    failures integer, deactivates_at text);

-- What a test of this topic sends: the documented body with the documented example's values; of other topics only that it is
-- a test.
create function bisd.sample(topic text) returns json
language sql stable set search_path = pg_catalog, pg_temp as $$
    select (left(body::text, -1) || ',"test":true}')::json
    from (
        select case when topic like 'notification/%' then
            row_to_json(row(
                12345, topic, bisd.utc(now()), 'email', row('customer@example.com', null)::bisd.notification_customer,
                1, 'en-GB', 14400, bisd.utc(now() - interval '2 days'),
                row(8339067207909, 'Black Tea', 44211925318693, 'Small', null)::bisd.notification_product
            )::bisd.notification_body)
        when topic in ('webhook/failing', 'webhook/deactivated', 'webhook/recovered') then
            row_to_json(row(
                7, topic, bisd.utc(now()), row('notification/sent', 'CRM')::bisd.webhook_subscription, 'a sample',
                bisd.utc(now() - interval '36 hours'), 41, bisd.utc(now() + interval '36 hours')
            )::bisd.webhook_body)
        else row_to_json(row(topic, bisd.utc(now()))::bisd.sample_body) end as body
    ) sample
$$;

-- A test payload, to this webhook alone: sent at once and once, switched on or off, and counted for nothing. Answers the test
-- event's id.
create function bisd.send_test(webhook_id bigint) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    webhook bisd.webhook := bisd.require_webhook(send_test.webhook_id);
    tested bigint;
begin
    if not (select p.webhooks from bisd.account a join bisd.plan p on p.name = a.plan where a.id = webhook.account_id) then
        raise exception 'bisd: the plan of account % has no webhooks', webhook.account_id
            using errcode = 'BISD0', hint = 'bisd account set-plan changes it.';
    end if;
    with event as (
        insert into bisd.event (account_id, topic, body, webhook_id, test)
        values (webhook.account_id, webhook.topic, bisd.sample(webhook.topic), webhook.id, true)
        returning *
    )
    insert into bisd.delivery (webhook_id, event_id, event_created_at, bytes, test)
    select webhook.id, e.id, e.created_at, octet_length(e.body::text), true from event e
    returning event_id into tested;
    perform bisd.ring();
    return tested;
end $$;

-- Due now: a delivery that is owed, at once; one that was settled is owed anew, with its schedule from the beginning. False
-- where there is nothing to send: it never was owed, its event is past retention, or its webhook was removed.
create function bisd.retry(event_id bigint, webhook_id bigint) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    update bisd.delivery d set due_at = now(), txid = pg_current_xact_id()
    where d.webhook_id = retry.webhook_id and d.event_id = retry.event_id and not d.test;
    if not found then
        insert into bisd.delivery (webhook_id, event_id, event_created_at, bytes)
        select w.id, e.id, e.created_at, octet_length(e.body::text)
        from bisd.webhook w
        join (select distinct a.event_created_at
              from bisd.attempt a
              where a.event_id = retry.event_id and a.webhook_id = retry.webhook_id and not a.test) tried on true
        join bisd.event e on e.id = retry.event_id and e.created_at = tried.event_created_at
        where w.id = retry.webhook_id and w.removed_at is null
        on conflict do nothing;
        if not found then
            return false;
        end if;
    end if;
    perform bisd.ring();
    return true;
end $$;

-- No further attempt; an answer that is on its way already still counts. False where nothing was owed.
create function bisd.cancel(event_id bigint, webhook_id bigint) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform from bisd.webhook w where w.id = cancel.webhook_id for update;
    with gone as (
        delete from bisd.delivery d where d.webhook_id = cancel.webhook_id and d.event_id = cancel.event_id
        returning d.event_created_at, d.test
    )
    insert into bisd.attempt (event_id, webhook_id, attempted_at, event_created_at, verdict, test)
    select cancel.event_id, cancel.webhook_id, clock_timestamp(), g.event_created_at, 'cancelled', g.test
    from gone g;
    if not found then
        return false;
    end if;
    perform bisd.reread_webhook(cancel.webhook_id);
    return true;
end $$;

-- Owes again what happened from `since` until before `until` (null: now): all that the webhook's topic and filter call for, sent
-- before, missed or failed; or only what failed, expired or was refused. What is owed already is left as it is. Spread over time,
-- `per_second` (half of the webhook's rate at most), so that what happens meanwhile does not wait behind it; to an ordered webhook, where it has to, as fast as that
-- takes them. Answers how many.
create function bisd.replay(
    webhook_id bigint, since timestamptz, until timestamptz, only_failed boolean, per_second double precision default 100
) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    webhook bisd.webhook := bisd.require_webhook(replay.webhook_id);
    owed bigint;
begin
    if since is null or since >= coalesce(until, now()) then
        raise exception 'bisd: nothing can have happened from % until before %', coalesce(since::text, 'no known time'), coalesce(until, now())
            using errcode = 'BISD0', hint = 'Give the earlier time first; times without a zone are the session''s.';
    end if;
    if per_second is null or per_second not between 0.001 and 100000 then
        raise exception 'bisd: a replay cannot send % per second', coalesce(per_second::text, 'an unknown number')
            using errcode = 'BISD0', hint = 'Between 0.001 and 100000.';
    end if;
    with wanted as (
        select e.id, e.created_at, octet_length(e.body::text) as bytes,
               now() + case when webhook.ordered then interval '0'
                            else (row_number() over (order by e.id) - 1) / least(per_second, webhook.rate / 2) * interval '1 second' end as due_at
        from bisd.event e
        where e.account_id = webhook.account_id and e.topic = webhook.topic
          and e.created_at >= since and e.created_at < coalesce(until, now())
          and not e.test and e.webhook_id is distinct from webhook.id
          and (webhook.filter is null or bisd.passes(e.body, webhook.filter))
          and not exists (select from bisd.delivery d where d.webhook_id = webhook.id and d.event_id = e.id)
          and (not coalesce(only_failed, false) or (
              select a.verdict
              from bisd.attempt a
              where a.event_id = e.id and a.webhook_id = webhook.id and a.verdict not in ('retry', 'postponed')
              order by a.attempted_at desc
              limit 1) in ('failed', 'expired', 'refused'))
    )
    insert into bisd.delivery (webhook_id, event_id, event_created_at, bytes, owed_since, due_at, replayed)
    select webhook.id, id, created_at, bytes, due_at, due_at, true from wanted
    on conflict do nothing;
    get diagnostics owed = row_count;
    if owed > 0 then
        perform bisd.ring();
    end if;
    return owed;
end $$;

-- Takes back what replays have owed and nobody has tried yet; answers how many.
create function bisd.cancel_replay(webhook_id bigint) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    cancelled bigint;
begin
    perform bisd.require_webhook(cancel_replay.webhook_id);
    delete from bisd.delivery d where d.webhook_id = cancel_replay.webhook_id and d.replayed and d.attempts = 0;
    get diagnostics cancelled = row_count;
    perform bisd.reread_webhook(cancel_replay.webhook_id);
    return cancelled;
end $$;

-- What a daemon says of a webhook when its state changes: that it is failing (since when, how often, at how many percent of the
-- way to deactivation, and, while it is parked, when it is probed next), that it has recovered, or that it is to be deactivated.
-- Its owner is told of every warning, the deactivation and the recovery by an event, once: a row that says so already, or is
-- switched off, is left as it is. False: somebody else is changing the row; say it again later.
create function bisd.report(
    webhook_id bigint, failing_since timestamptz, failures integer, warned integer, deactivates_at timestamptz,
    next_probe_at timestamptz, probes integer, deactivate text, last_error text
) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    known bisd.webhook;
    news text;
begin
    select w.* into known from bisd.webhook w where w.id = report.webhook_id and w.enabled for no key update skip locked;
    if not found then
        return not exists (select from bisd.webhook w where w.id = report.webhook_id and w.enabled);
    elsif report.failing_since < known.resumed_at or report.failing_since is null and known.failing_since is null then
        return true;
    end if;
    if deactivate is not null then
        news := 'webhook/deactivated';
        update bisd.webhook w
        set enabled = false, off_reason = deactivate, switched_at = now(), failing_since = report.failing_since,
            failures = report.failures, next_probe_at = null, deactivates_at = null,
            note = case deactivate
                when 'gone' then format('deactivated at %s: its receiver answered 410, gone for good', bisd.utc(now()))
                else format('deactivated at %s: no success since %s, %s attempts failed, the last one with %s',
                            bisd.utc(now()), bisd.utc(report.failing_since), report.failures, last_error) end
        where w.id = known.id;
    elsif report.failing_since is null then
        news := case when known.warned > 0 then 'webhook/recovered' end;
        update bisd.webhook w
        set failing_since = null, failures = 0, warned = 0, deactivates_at = null, next_probe_at = null, probes = 0,
            recovered_at = case when known.next_probe_at is not null then now() end, note = format('recovered at %s', bisd.utc(now()))
        where w.id = known.id;
    else
        news := case when report.warned > known.warned then 'webhook/failing' end;
        update bisd.webhook w
        set failing_since = report.failing_since, failures = report.failures, warned = report.warned,
            deactivates_at = report.deactivates_at, next_probe_at = report.next_probe_at, probes = report.probes,
            note = format('failing since %s: %s attempts, the last one with %s; without a success it is deactivated at %s%s',
                          bisd.utc(report.failing_since), report.failures, last_error, bisd.utc(report.deactivates_at),
                          '; parked, next probe at ' || bisd.utc(report.next_probe_at))
        where w.id = known.id;
    end if;
    if news is not null then
        insert into bisd.event (account_id, topic, webhook_id, body)
        select w.account_id, news, w.id, row_to_json(row(
            w.id, news, bisd.utc(now()), row(w.topic, w.description)::bisd.webhook_subscription, w.note,
            bisd.utc(coalesce(w.failing_since, known.failing_since)), greatest(w.failures, known.failures), bisd.utc(w.deactivates_at)
        )::bisd.webhook_body)
        from bisd.webhook w
        where w.id = known.id;
        perform pg_notify('bisd_webhook', format('{"webhook_id":%s,"topic":"%s"}', known.id, news));
    end if;
    return true;
end $$;

-- A daemon runs. If none has for a while (nobody called, from wherever the daemons' shards are), what webhooks failed to take in
-- that time is not held against them. Answers how many seconds it was, 0 if it made no difference.
create function bisd.beat() returns double precision
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    silence interval;
begin
    select now() - p.at into silence from bisd.pulse p for update skip locked;
    if not found then
        return 0;
    end if;
    update bisd.pulse set at = now();
    if silence <= interval '90 seconds' then
        return 0;
    end if;
    update bisd.webhook w
    set failing_since = least(w.failing_since + silence, now()), deactivates_at = w.deactivates_at + silence
    where w.failing_since is not null and w.enabled;
    return case when found then extract(epoch from silence) else 0 end;
end $$;

-- What happened to webhooks, for the application: listen on bisd_webhook, then look here.
create view bisd.webhook_event as
select e.id as event_id, e.account_id, e.webhook_id, e.topic, e.body, e.created_at
from bisd.event e
where e.webhook_id is not null and not e.test;

-- What is owed and what was settled, in one shape. A settled delivery is told by its last attempt; one that was settled
-- twice (owed again by a replay) by the later one.
create view bisd.delivery_status as
select
    d.event_id,
    d.webhook_id,
    w.account_id,
    w.topic,
    case when w.removed_at is not null then 'cancelled' when not (w.live or d.test) then 'held' when d.attempts = 0 then 'pending' else 'retrying' end as state,
    d.attempts,
    last.status::integer as last_status,
    last.code as last_error,
    case when w.live or d.test then d.due_at end as next_attempt_at,
    d.event_created_at as created_at,
    null::timestamptz as settled_at
from bisd.delivery d
join bisd.webhook w on w.id = d.webhook_id
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
where a.verdict not in ('retry', 'postponed')
  and not exists (select from bisd.delivery d where d.webhook_id = a.webhook_id and d.event_id = a.event_id)
  and not exists (
    select from bisd.attempt later
    where later.event_id = a.event_id and later.webhook_id = a.webhook_id
      and later.attempted_at > a.attempted_at and later.verdict not in ('retry', 'postponed'));

-- In one word, the worst that holds.
create function bisd.webhook_state(
    enabled boolean, in_plan boolean, off_reason text, failing_since timestamptz, next_probe_at timestamptz
) returns text
language sql immutable as $$
    select case
        when off_reason in ('failing', 'gone') then 'deactivated'
        when not enabled then 'off'
        when not in_plan then 'not in plan'
        when next_probe_at is not null then 'parked'
        when failing_since is not null then 'failing'
        else 'well'
    end
$$;

-- How each webhook is doing. success_rate is that of its last 1,000 attempts, streak how many of them have failed since its
-- last success, or since it was switched on; backlog is what it is owed, counted up to 10,000: there may be millions.
create view bisd.webhook_health as
select
    w.id as webhook_id,
    w.account_id,
    w.topic,
    bisd.webhook_state(w.enabled, p.webhooks, w.off_reason, w.failing_since, w.next_probe_at) as state,
    recent.success_rate,
    recent.last_success_at,
    recent.streak,
    owed.backlog,
    owed.oldest_waiting,
    w.failing_since,
    w.deactivates_at,
    w.next_probe_at,
    case when w.enabled and not p.webhooks then format('the plan %s has no webhooks', c.plan) else w.note end as note,
    array(select jsonb_object_keys(w.headers)) as header_names
from bisd.webhook w
join bisd.account c on c.id = w.account_id
join bisd.plan p on p.name = c.plan
cross join lateral (
    select round(avg((a.verdict = 'delivered')::integer), 3)::double precision as success_rate,
           max(a.last_success_at) as last_success_at,
           count(*) filter (where a.attempted_at > coalesce(a.last_success_at, '-infinity')
                              and a.attempted_at >= coalesce(w.resumed_at, '-infinity')) as streak
    from (select t.*, max(t.attempted_at) filter (where t.verdict = 'delivered') over () as last_success_at
          from (select u.attempted_at, u.verdict
                from bisd.attempt u
                where u.webhook_id = w.id and u.number is not null and not u.test
                order by u.attempted_at desc
                limit 1000) t) a
) recent
cross join lateral (
    select count(*) as backlog, min(d.event_created_at) as oldest_waiting
    from (select d.event_created_at
          from bisd.delivery d
          where d.webhook_id = w.id and not d.test
          order by d.event_id
          limit 10000) d
) owed
where w.removed_at is null;

-- What came of the attempts that ended in the last `seconds`, a minute if all of that can be read: from the end of today's
-- partition, where alone it grows, 1 MiB at most. So it takes as long whatever there is (measured: 4 ms, with a million).
create function bisd.recent(out seconds double precision, out delivered bigint, out failed bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    today timestamp := date_trunc('day', now() at time zone 'UTC');
    part regclass := to_regclass('bisd.attempt_' || to_char(today, 'YYYYMMDD'));
    since timestamptz := greatest(now() - interval '1 minute', today at time zone 'UTC');
    page bigint := greatest(0, (pg_relation_size(part) - (1 << 20)) / current_setting('block_size')::integer);
    oldest timestamptz;
begin
    if part is not null then
        execute format(
            'select min(ended) filter (where $1 > 0), count(*) filter (where verdict = ''delivered'' and ended >= $2), '
            'count(*) filter (where verdict <> ''delivered'' and number is not null and ended >= $2) '
            'from (select verdict, number, attempted_at + coalesce(total_ms, 0) * interval ''1 millisecond'' as ended '
            'from %s where ctid >= $3) ended', part)
        into oldest, delivered, failed using page, since, format('(%s,0)', page)::tid;
    end if;
    seconds := extract(epoch from now() - greatest(since, oldest));
    delivered := coalesce(delivered, 0);
    failed := coalesce(failed, 0);
end $$;

-- How many daemons are members, and which shards nobody holds: told by the advisory locks of this database. And how many members
-- were ended just now because they have not taken an answer for `unread`: their host is stopped or gone, and what the server
-- still has to send to them keeps it from noticing. Only those that the caller may end: other daemons run as the same role.
create function bisd.members(unread interval, out members integer, out free integer[], out evicted integer)
language sql volatile set search_path = pg_catalog, pg_temp as $$
    with held as materialized (
        select l.objid::bigint as key, l.pid
        from pg_locks l
        where l.locktype = 'advisory' and l.classid = 1651143524 and l.objsubid = 2 and l.granted
          and l.database = (select oid from pg_database where datname = current_database())
    )
    select
        (select count(*) from held where key = 64)::integer,
        array(select shard from generate_series(0, 63) shard where shard not in (select key from held)),
        (select count(*) filter (where pg_terminate_backend(member.pid))
         from (select distinct h.pid from held h where h.key <= 64) member
         cross join lateral pg_stat_get_activity(member.pid) a
         join pg_roles r on r.oid = a.usesysid
         where member.pid <> pg_backend_pid()
           and a.state = 'active' and a.wait_event = 'ClientWrite' and a.query_start < clock_timestamp() - unread
           and pg_has_role(r.oid, 'usage') and (not r.rolsuper or current_setting('is_superuser')::boolean))::integer
$$;

-- Transaction ids belong to one cluster. Rows restored from another's dump may bear ids of the future and would arrive for
-- ever: they are stamped anew. Answers how many were. Asked at every start of a daemon; normally it finds none, by index. Each
-- statement goes by its own snapshot: what it sees and that snapshot calls the future is no transaction of this cluster.
create function bisd.restamp() returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    deliveries bigint;
    webhooks bigint := 0;
begin
    update bisd.delivery set txid = pg_current_xact_id() where txid >= pg_snapshot_xmax(pg_current_snapshot());
    get diagnostics deliveries = row_count;
    -- The statement rings even where it finds none, and would wait for whoever holds the lock of all that ring.
    if exists (select from bisd.webhook w where w.txid >= pg_snapshot_xmax(pg_current_snapshot())) then
        update bisd.webhook w set url = w.url where w.txid >= pg_snapshot_xmax(pg_current_snapshot());
        get diagnostics webhooks = row_count;
    end if;
    return deliveries + webhooks;
end $$;

-- Webhooks that were removed before `before`: nothing is left that they did. Answers how many.
create function bisd.forget_webhooks(before timestamptz) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    forgotten bigint;
begin
    -- What a transaction owed it that was still open when it was removed: nobody would ever settle it.
    perform bisd.cancel_all(w.id)
    from bisd.webhook w
    where w.removed_at is not null and exists (select from bisd.delivery d where d.webhook_id = w.id);
    delete from bisd.webhook w where w.removed_at < before;
    get diagnostics forgotten = row_count;
    return forgotten;
end $$;
