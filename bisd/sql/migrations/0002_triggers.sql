-- How rows become events, events become owed deliveries, and the bell rings. Everything here runs in the application's
-- transaction, as the owner of the schema (security definer): the application needs no right on bisd's own tables.
--
-- What the application's own statements run through sets no search_path, which costs it more than all that is looked up by it
-- (measured: a seventh of what the triggers cost). Instead every function, operator and relation in it is named with its schema,
-- so that whatever the application's search_path leads to is not called with the owner's rights; or it has a body that is
-- parsed when it is made (SQL, `return`). A test shadows everything that PostgreSQL has.

-- As the documentation writes times. A single expression, so that PostgreSQL inlines it.
create function bisd.utc(at timestamptz) returns text
language sql stable return to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"');

-- The bell says 'look' and nothing else. A NOTIFY takes a lock that is global to the server until its commit is flushed, so
-- of all transactions one rings in 5 ms: the first, which leaves a mark for the others. The mark is kept by a sequence, because
-- that is seen at once and by all (measured, eight writers: a lock until the commit as the mark let a fifth of them ring, a
-- thousand a second, and cost a sixth of all inserts). The others skip the bell, and the daemon that is woken looks on until all
-- have ended that were under way in those 5 ms. Once it has rung, a transaction leaves no further mark: its bell is heard when it
-- commits, and one that inserts for minutes would silence the rest. (That it has rung goes with the transaction, and with a
-- savepoint, as the bell does; the mark stays, so it says whose it is.)
create sequence bisd.bell;

create function bisd.ring() returns void
language plpgsql as $$
declare
    slot bigint := pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) operator(pg_catalog.*) 200::pg_catalog.float8;
    mark bigint := (slot operator(pg_catalog.<<) 20)
        operator(pg_catalog.|) (pg_catalog.txid_current() operator(pg_catalog.&) 1048575::pg_catalog.int8);
    last bigint := pg_catalog.pg_sequence_last_value('bisd.bell'::pg_catalog.regclass);
begin
    if pg_catalog.current_setting('bisd.rung', true) operator(pg_catalog.=) 'yes'
        or ((last operator(pg_catalog.>>) 20) operator(pg_catalog.=) slot and last operator(pg_catalog.<>) mark) then
        return;
    end if;
    perform pg_catalog.set_config('bisd.rung', 'yes', true);
    perform pg_catalog.setval('bisd.bell'::pg_catalog.regclass, mark);
    perform pg_catalog.pg_notify('bisd', '');
end $$;

-- Whether a webhook's filter is true of a body. A body that cannot be asked (jsonb does not hold all that json does) passes:
-- rather one too many than one lost, and never a fault in the application's transaction.
create function bisd.passes(body json, filter jsonpath) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    asked jsonb;
begin
    begin
        asked := body::jsonb;
    exception when others then
        return true;
    end;
    return coalesce(jsonb_path_match(asked, filter, '{}', true), false);
exception when others then
    return false;
end $$;

-- A check of `event` that its fan-out makes: as a constraint of the table it would be parsed by every insert of the application
-- (measured: a thirtieth of what the triggers cost).
create function bisd.refuse_event() returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception 'bisd: a test has the webhook that it is for' using errcode = 'check_violation';
end $$;

-- Fan-out: one delivery for each webhook of the event's account and topic that is live and whose filter lets the event pass.
-- A session plans this once, by the size of its first statement: webhooks are looked up for each event by itself (offset 0 keeps
-- the planner from joining otherwise), so that a bulk insert does not leave a plan behind that reads all of them for a single row.
create function bisd.fan_out() returns trigger
language plpgsql security definer as $$
begin
    insert into bisd.delivery (webhook_id, event_id, event_created_at, bytes)
    select w.id, e.id, e.created_at, pg_catalog.octet_length(e.body::pg_catalog.text)
    from new_events e
    cross join lateral (
        select w.id, w.filter
        from bisd.webhook w
        where w.account_id operator(pg_catalog.=) e.account_id and w.topic operator(pg_catalog.=) e.topic and w.live
        offset 0
    ) w
    where case when not e.test then true when e.webhook_id is null then bisd.refuse_event() else false end
      and (e.webhook_id is null or w.id operator(pg_catalog.<>) e.webhook_id)
      and (w.filter is null or bisd.passes(e.body, w.filter));
    if found then
        perform bisd.ring();
    end if;
    return null;
end $$;

create trigger fan_out after insert on bisd.event
    referencing new table as new_events
    for each statement execute function bisd.fan_out();

-- Whether an account's plan has webhooks: so it stays until the transaction ends. Plans that change wait for whoever asks (the
-- advisory lock), changes of the account's plan too (its row).
create function bisd.keep_plan(account_id bigint) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pg_advisory_xact_lock_shared(1651143529, 0);
    perform from bisd.account a where a.id = keep_plan.account_id for share;
    return coalesce((select p.webhooks from bisd.account a join bisd.plan p on p.name = a.plan where a.id = keep_plan.account_id), false);
end $$;

-- A webhook is switched on or off, and live or not with that.
create function bisd.enliven_webhook() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if new.enabled then
        new.live := bisd.keep_plan(new.account_id);
    else
        new.live := false;
    end if;
    return new;
end $$;

create trigger enliven before insert or update of account_id, enabled on bisd.webhook
    for each row execute function bisd.enliven_webhook();

-- What a daemon must know of a webhook has changed: the row is stamped, so that it arrives, and the bell rings.
create function bisd.stamp_webhook() returns trigger
language plpgsql as $$
begin
    new.txid := pg_current_xact_id();
    return new;
end $$;

create trigger stamp
    before update of account_id, url, enabled, live, max_in_flight, rate, ordered, headers, resumed_at on bisd.webhook
    for each row execute function bisd.stamp_webhook();

create function bisd.webhooks_changed() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pg_notify('bisd', '');
    return null;
end $$;

create trigger changed
    after insert or update of account_id, url, enabled, live, max_in_flight, rate, ordered, headers, resumed_at on bisd.webhook
    for each statement execute function bisd.webhooks_changed();

-- A webhook is removed by bisd.remove_webhook, which cancels what it is owed and keeps its history; its row goes with that.
create function bisd.keep_webhook() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if old.removed_at is null then
        raise exception 'bisd: webhook % cannot be deleted as a row', old.id
            using errcode = 'BISD0', hint = format('select bisd.remove_webhook(%s) cancels what it is owed and keeps its history.', old.id);
    end if;
    return old;
end $$;

create trigger keep before delete on bisd.webhook
    for each row execute function bisd.keep_webhook();

-- A plan that has webhooks again: as if they had been switched on, so that what was held has its full time.
create function bisd.resume_account(account_id bigint) returns void
language sql security definer set search_path = pg_catalog, pg_temp as $$
    update bisd.webhook w
    set resumed_at = now(), failing_since = null, failures = 0, warned = 0, deactivates_at = null, next_probe_at = null, probes = 0,
        note = format('in the plan since %s', bisd.utc(now()))
    where w.account_id = resume_account.account_id and w.enabled
$$;

create function bisd.account_changed() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if new.plan <> old.plan
        and (select has.webhooks and not had.webhooks
             from bisd.plan has, bisd.plan had where has.name = new.plan and had.name = old.plan) then
        perform bisd.resume_account(new.id);
    end if;
    update bisd.webhook w
    set live = w.enabled and (select p.webhooks from bisd.plan p where p.name = new.plan)
    where w.account_id = new.id;
    return null;
end $$;

create trigger changed after update of plan, api_key, previous_api_key, previous_until on bisd.account
    for each row execute function bisd.account_changed();

create function bisd.plan_changed() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if new.webhooks and not old.webhooks then
        perform bisd.resume_account(a.id) from bisd.account a where a.plan = new.name;
    end if;
    update bisd.webhook w set live = w.enabled and new.webhooks
    from bisd.account a
    where a.id = w.account_id and a.plan = new.name;
    return null;
end $$;

create trigger changed after update of webhooks on bisd.plan
    for each row execute function bisd.plan_changed();

-- Before any row is locked: nobody else changes a plan until the transaction ends, nor, while one is changed, an account, whose
-- webhooks the two would lock in different orders.
create function bisd.lock_plans() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if tg_relid = 'bisd.plan'::regclass then
        perform pg_advisory_xact_lock(1651143529, 0);
    else
        perform pg_advisory_xact_lock_shared(1651143529, 0);
    end if;
    return null;
end $$;

create trigger lock before update of webhooks on bisd.plan
    for each statement execute function bisd.lock_plans();

create trigger lock before update of plan, api_key, previous_api_key, previous_until on bisd.account
    for each statement execute function bisd.lock_plans();

-- The reference table: a customer waits for a product.
create table bisd.notification (
    id bigint generated by default as identity primary key,
    account_id bigint not null,
    channel text not null default 'email',
    customer_email text,
    customer_sms text,
    quantity_required integer not null default 1,
    customer_language text,
    customer_utc_offset integer,
    product_id bigint,
    product_title text,
    variant_id bigint,
    variant_title text,
    sku text,
    created_at timestamptz not null default now() check (isfinite(created_at)),
    sent_at timestamptz check (isfinite(sent_at)),
    -- True from the first update on that sets `sent_at`, or finds it set: notification/sent happens once, whatever becomes of it.
    sent boolean not null default false
);

create index notification_account on bisd.notification (account_id, id);

create function bisd.mark_sent() returns trigger
language plpgsql as $$
begin
    new.sent := true;
    return new;
end $$;

create trigger mark_sent before update on bisd.notification
    for each row when (not new.sent and (new.sent_at is not null or old.sent_at is not null)) execute function bisd.mark_sent();

-- The documented body: compact, keys in the documented order (that of these types), nulls kept. row_to_json, not
-- json_build_object, writes the form that JSON.stringify(JSON.parse(body)) gives back.
create type bisd.notification_customer as (email text, sms text);
create type bisd.notification_product as (
    product_id bigint, product_title text, variant_id bigint, variant_title text, sku text);
create type bisd.notification_body as (
    notification_id bigint, topic text, "timestamp" text, channel text, customer bisd.notification_customer,
    quantity_required integer, customer_language text, customer_utc_offset integer, created_at text,
    product bisd.notification_product);

-- Single expressions, so that PostgreSQL inlines them: a call would cost more than the work.
create function bisd.notification_json(n bisd.notification, topic text, happened_at timestamptz) returns json
language sql stable return row_to_json(row(
    n.id, topic, bisd.utc(happened_at), n.channel, row(n.customer_email, n.customer_sms)::bisd.notification_customer,
    n.quantity_required, n.customer_language, n.customer_utc_offset, bisd.utc(n.created_at),
    row(n.product_id, n.product_title, n.variant_id, n.variant_title, n.sku)::bisd.notification_product
)::bisd.notification_body);

-- notification/create, at created_at; and notification/sent, at sent_at, for a row that is sent already.
create function bisd.notification_created() returns trigger
language plpgsql security definer as $$
begin
    insert into bisd.event (account_id, topic, body)
    select n.account_id, t.topic, bisd.notification_json(n, t.topic, t.happened_at)
    from new_rows n
    cross join lateral (
        values ('notification/create', n.created_at), ('notification/sent', n.sent_at)
    ) as t (topic, happened_at)
    where t.happened_at is not null;
    return null;
end $$;

create trigger created after insert on bisd.notification
    referencing new table as new_rows
    for each statement execute function bisd.notification_created();

-- notification/sent, when `sent_at` is set for the first time. Planned once too: by a hash, so that an update of one row does
-- not leave a plan behind that compares each of ten thousand with each.
create function bisd.notification_sent() returns trigger
language plpgsql security definer set enable_nestloop = off set enable_mergejoin = off as $$
begin
    insert into bisd.event (account_id, topic, body)
    select n.account_id, 'notification/sent', bisd.notification_json(n, 'notification/sent', n.sent_at)
    from new_rows n
    join old_rows o on o.id operator(pg_catalog.=) n.id
    where n.sent and not o.sent and o.sent_at is null;
    return null;
end $$;

create trigger sent after update on bisd.notification
    referencing old table as old_rows new table as new_rows
    for each statement execute function bisd.notification_sent();
