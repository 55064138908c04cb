-- What bisd keeps: accounts and their webhooks, what happened (event), what is still owed (delivery), what was tried
-- (attempt). Hot and cold are apart: `delivery` is small and churns, `event` and `attempt` are append-only, partitioned by
-- the day and dropped by the day.

-- Plans as data: which of them include webhooks.
create table bisd.plan (
    name text primary key,
    webhooks boolean not null
);

insert into bisd.plan (name, webhooks)
values ('small', false), ('medium', true), ('large', true), ('enterprise', true);

create table bisd.account (
    id bigint generated always as identity primary key,
    name text not null check (name <> ''),
    plan text not null references bisd.plan (name),
    -- An HMAC with a short key can be forged, with an empty one by anybody.
    api_key text not null unique check (length(api_key) >= 16),
    previous_api_key text check (length(previous_api_key) >= 16),
    previous_until timestamptz check (previous_until between '1970-01-01' and '9000-01-01'),
    created_at timestamptz not null default now(),
    check ((previous_api_key is null) = (previous_until is null))
);

create table bisd.webhook (
    id bigint generated always as identity primary key,
    account_id bigint not null references bisd.account (id),
    -- The topic travels in a header: visible ASCII only.
    topic text not null check (topic ~ '^[!-~]{1,128}$'),
    -- What SQL can tell of a URL; the daemon judges the rest where it connects (egress.py).
    url text not null
        check (url ~ '^https?://[^[:space:][:cntrl:]]+$' and length(url) <= 2048),
    enabled boolean not null default false,
    max_in_flight integer check (max_in_flight between 1 and 10000),
    created_at timestamptz not null default now(),
    -- The transaction that last changed what a daemon must know of this webhook: changes arrive as deliveries do.
    txid xid8 not null default pg_current_xact_id()
);

create index webhook_fan_out on bisd.webhook (account_id, topic) include (id) where enabled;
create index webhook_account on bisd.webhook (account_id, id);
create index webhook_arrival on bisd.webhook (txid);

-- One thing that happened, frozen when it happened: `body` is the text that is signed and sent at every attempt (type json
-- keeps the text as it was given). No foreign keys here and in `delivery`: they would lock the account's row in every
-- transaction of the application, and an event of an unknown account harms nobody.
create table bisd.event (
    id bigint generated always as identity,
    account_id bigint not null,
    topic text not null check (topic ~ '^[!-~]{1,128}$'),
    body json not null,
    created_at timestamptz not null default now() check (created_at between '1970-01-01' and '9000-01-01'),
    primary key (id, created_at)
) partition by range (created_at);

-- Nothing that housekeeping forgets may fail an insert of the application.
create table bisd.event_default partition of bisd.event default;

-- One event owed to one webhook. A settled delivery leaves the table.
create table bisd.delivery (
    webhook_id bigint not null,
    event_id bigint not null,
    -- The event's, so that a join with `event` prunes to one partition.
    event_created_at timestamptz not null check (event_created_at between '1970-01-01' and '9000-01-01'),
    -- Since when it has been owed: what `expires_after` counts from.
    owed_since timestamptz not null default now() check (owed_since between '1970-01-01' and '9000-01-01'),
    due_at timestamptz not null default now() check (due_at between '1970-01-01' and '9000-01-01'),
    -- The transaction that made it due: what arrival goes by.
    txid xid8 not null default pg_current_xact_id(),
    attempts integer not null default 0 check (attempts between 0 and 1000000),
    -- Octets of the event's body: how many deliveries a daemon reads at once depends on it.
    bytes integer not null check (bytes >= 0),
    primary key (webhook_id, event_id)
) with (
    -- Every row dies within seconds: vacuum by number, not by share, and at full speed.
    autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.0, autovacuum_analyze_threshold = 20000,
    fillfactor = 90
);

create index delivery_lane on bisd.delivery (webhook_id, due_at, event_id);
create index delivery_arrival on bisd.delivery (txid);

create type bisd.verdict as enum ('delivered', 'retry', 'failed', 'expired', 'refused', 'cancelled');

-- One POST and what came of it, append-only. A delivery settled without a POST (expired while it waited, cancelled) has a
-- row without a number. The key also makes a write-back that is repeated after a lost answer harmless.
create table bisd.attempt (
    event_id bigint not null,
    webhook_id bigint not null,
    attempted_at timestamptz not null,
    event_created_at timestamptz not null,
    number integer check (number > 0),
    verdict bisd.verdict not null,
    status smallint check (status between 0 and 999),
    code text,
    due_at timestamptz,
    dns_ms real,
    connect_ms real,
    first_byte_ms real,
    total_ms real,
    answer bytea,
    primary key (event_id, webhook_id, attempted_at),
    check ((verdict = 'retry') = (due_at is not null))
) partition by range (attempted_at);

create index attempt_webhook on bisd.attempt (webhook_id, attempted_at);

create table bisd.attempt_default partition of bisd.attempt default;

-- Partitions of both tables from today to `ahead` days on, named after their UTC day; answers how many are new. Attached,
-- not created in place: attaching asks only for a lock that the application's inserts do not hold.
create function bisd.make_partitions(ahead integer) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    parent text;
    day date;
    part text;
    moment text;
    made integer := 0;
begin
    perform pg_advisory_xact_lock(hashtext('bisd.partitions'));
    perform set_config('lock_timeout', '2s', true);
    foreach parent in array array['event', 'attempt'] loop
        moment := case parent when 'event' then 'created_at' else 'attempted_at' end;
        for day in select ((now() at time zone 'UTC')::date + n) from generate_series(0, ahead) n loop
            part := parent || '_' || to_char(day, 'YYYYMMDD');
            if to_regclass('bisd.' || part) is null then
                execute format('create table bisd.%I (like bisd.%I including defaults including constraints)', part, parent);
                -- What came for this day while it had no partition has been kept by the default one.
                execute format(
                    'with kept as (delete from bisd.%I where %I >= %L and %I < %L returning *) insert into bisd.%I select * from kept',
                    parent || '_default', moment, day::timestamp at time zone 'UTC',
                    moment, (day + 1)::timestamp at time zone 'UTC', part);
                execute format(
                    'alter table bisd.%I attach partition bisd.%I for values from (%L) to (%L)',
                    parent, part, day::timestamp at time zone 'UTC', (day + 1)::timestamp at time zone 'UTC');
                made := made + 1;
            end if;
        end loop;
    end loop;
    return made;
end $$;

-- Drops the partitions of `parent` whose last day ended before `before`; answers their names. A partition of events in
-- which something is still owed stays. Dropping locks the parent, and the application's inserts wait behind who waits for a
-- lock: it gives up after a moment, and is done the next time.
create function bisd.drop_partitions(parent text, before timestamptz) returns setof text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    part text;
    day date;
begin
    if parent not in ('event', 'attempt') then
        raise exception 'bisd: there is no partitioned table "%"; it is event or attempt', parent;
    end if;
    perform pg_advisory_xact_lock(hashtext('bisd.partitions'));
    perform set_config('lock_timeout', '200ms', true);
    for part in
        select c.relname
        from pg_catalog.pg_inherits i
        join pg_catalog.pg_class c on c.oid = i.inhrelid
        where i.inhparent = ('bisd.' || parent)::regclass and c.relname ~ ('^' || parent || '_[0-9]{8}$')
        order by c.relname
    loop
        day := to_date(right(part, 8), 'YYYYMMDD');
        continue when (day + 1)::timestamp at time zone 'UTC' > before;
        continue when parent = 'event' and exists (
            select from bisd.delivery d
            where d.event_created_at >= day::timestamp at time zone 'UTC'
              and d.event_created_at < (day + 1)::timestamp at time zone 'UTC');
        execute format('drop table bisd.%I', part);
        return next part;
    end loop;
end $$;

select bisd.make_partitions(7);
