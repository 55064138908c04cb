-- What bisd keeps: accounts and their webhooks, what happened (event), what is still owed (delivery), what was tried
-- (attempt). Hot and cold are apart: `delivery` is small and churns, `event` and `attempt` are append-only, partitioned by
-- the day and dropped by the day.

-- Checks of the hot tables stand in domains: those of a table are parsed anew by every statement that writes to it (measured:
-- 3 us each, in the application's transaction), those of a domain once per session. Times are such that every client can read.
create domain bisd.moment as timestamptz check (value between '1970-01-01' and '9000-01-01');
-- Printable ASCII. Two questions, because a bounded repetition costs ten times as much as both.
create domain bisd.topic as text check (value ~ '^[!-~]+$' and length(value) <= 128);
create domain bisd.tally as integer check (value between 0 and 1000000);
create domain bisd.octets as integer check (value >= 0);
-- A traceparent of W3C Trace Context, which travels in a header.
create domain bisd.traceparent as text check (value ~ '^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$');

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
    previous_until bisd.moment,
    created_at timestamptz not null default now(),
    check ((previous_api_key is null) = (previous_until is null))
);

-- What is wrong with a URL, as far as no configuration is needed to tell; null if nothing is. Ports, plain HTTP and addresses
-- are the configuration's; the daemon judges all of it again where it connects (egress.py).
create function bisd.url_fault(url text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
    authority text := substring(url from '(?i)^https?://([^/?#]*)');
begin
    if url is null or authority is null then
        return 'it must start with https://';
    elsif length(url) > 2048 then
        return 'it has more than 2048 characters';
    elsif url !~ '^[!-~]+$' or url ~ '[\\<>"{}|^`]' then
        return 'it has characters that a URL cannot have; percent-encode them';
    elsif authority ~ '@' then
        return 'it must not contain a user name or a password';
    elsif authority !~ '^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?$' then
        return 'its host is neither a name nor an address in the usual form';
    elsif coalesce(substring(authority from ':([0-9]{1,5})$')::integer, 443) not between 1 and 65535 then
        return 'its port is not between 1 and 65535';
    end if;
    return null;
end $$;

-- What is wrong with a webhook's own headers; null if nothing is. Names by a list of what is allowed, never one of ours and
-- none that says where a request comes from or goes to; values are visible ASCII, so that nothing can be smuggled in.
create function bisd.header_fault(headers jsonb) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
    header record;
begin
    if jsonb_typeof(headers) is distinct from 'object' then
        return 'headers must be a JSON object of names and values';
    end if;
    if (select count(*) > 16 or count(*) > count(distinct lower(key)) from jsonb_object_keys(headers) key) then
        return 'there may be 16 headers, each name once';
    end if;
    for header in select key, value from jsonb_each(headers) loop
        if header.key !~* '^(authorization|api-key|x-[a-z0-9][a-z0-9-]{0,60})$'
            or header.key ~* '^x-(bis-|forwarded|real-ip|original-|rewrite-|host$|http-method|method-override)' then
            return format('a header cannot be called "%s": Authorization, Api-Key and X-... are allowed, X-BIS-... and those of proxies are not',
                          left(header.key, 64));
        end if;
        if jsonb_typeof(header.value) <> 'string' or (header.value #>> '{}') !~ '^[!-~]([ -~]*[!-~])?$'
            or length(header.value #>> '{}') > 1024 then
            return format('the value of header "%s" must be text of 1 to 1024 visible ASCII characters', header.key);
        end if;
    end loop;
    return null;
end $$;

-- What is wrong with a webhook's filter; null if nothing is. A merchant writes it, and it is asked in the application's
-- transaction, about bodies of a megabyte: it must cost no more than reading them. So it compares single paths with values, and
-- opens one array or object at most; steps into every depth, filters within filters, patterns and comparisons of paths with each
-- other are refused. It is a predicate if it answers true, false or unknown, whatever it is asked about.
create function bisd.filter_fault(filter jsonpath) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
    -- As PostgreSQL writes it, without what stands in quotes.
    bare text := regexp_replace(filter::text, '"([^"\\]|\\.)*"', '""', 'g');
begin
    if filter is null then
        return null;
    elsif length(filter::text) > 1000 then
        return 'a filter has at most 1000 characters';
    elsif bare ~ '\$""' then
        return 'a filter has no variables';
    elsif bare ~ '\*\*|\?|@|like_regex|keyvalue|datetime|date\(|time\(|time_tz\(|timestamp' then
        return 'a filter has no **, no ?, no pattern and no time in it: it compares paths with values, like $.product.product_id == 42';
    elsif (select count(*) from regexp_matches(bare, '\[\*\]|\.\*', 'g')) > 1 then
        return 'a filter opens one array or object at most: one [*] or .*';
    elsif bare ~ '(==|!=|<=|>=|<|>|starts with)(?!=) *(?! |-?[0-9.]|[tfn"])' then
        return 'a filter compares a path on the left with a value on the right, like $.product.product_id == 42';
    elsif not (select count(*) = 1 and coalesce(bool_and(jsonb_typeof(answer) in ('boolean', 'null')), false)
               from jsonb_path_query('{}', filter, '{}', true) answer) then
        return 'a filter must be a predicate that is true or false, like $.product.product_id == 42';
    end if;
    return null;
end $$;

create table bisd.webhook (
    id bigint generated always as identity primary key,
    account_id bigint not null references bisd.account (id),
    -- The topic travels in a header: visible ASCII only.
    topic bisd.topic not null,
    -- What SQL can tell of a URL; the daemon judges the rest where it connects (egress.py).
    url text not null check (bisd.url_fault(url) is null),
    description text not null default '' check (length(description) <= 200),
    enabled boolean not null default false,
    -- Switched on, and the account's plan has webhooks; kept so by triggers, so that fan-out has one table to read.
    live boolean not null default false check (enabled or not live),
    max_in_flight integer check (max_in_flight between 1 and 10000),
    -- POSTs per second at most.
    rate double precision check (rate between 0.001 and 100000),
    -- One at a time, in the order of event ids; what fails holds up what comes after it.
    ordered boolean not null default false,
    headers jsonb not null default '{}' check (bisd.header_fault(headers) is null),
    -- Which events it is owed: those whose body this predicate is true of.
    filter jsonpath check (bisd.filter_fault(filter) is null),
    created_at timestamptz not null default now(),
    removed_at timestamptz,
    -- When it was last switched on or off, and who switched it off: its owner; the system, because it kept failing; or its
    -- receiver, by answering 410.
    switched_at timestamptz,
    off_reason text check (off_reason in ('owner', 'failing', 'gone')),
    -- What it was owed before it was last switched on does not expire before it has had its time since then.
    resumed_at timestamptz,
    -- How it is doing, as its daemon says on change of state: the first failure since its last success, how many there were
    -- then, at how many percent of the way to deactivation its owner was warned, and, while it is parked, its probes.
    failing_since timestamptz,
    failures integer not null default 0 check (failures >= 0),
    warned smallint not null default 0 check (warned in (0, 50, 75)),
    deactivates_at timestamptz,
    next_probe_at timestamptz,
    probes integer not null default 0 check (probes >= 0),
    -- When a probe was taken: from then on its deliveries go out at a rate that grows.
    recovered_at timestamptz,
    -- All of this in plain words.
    note text not null default 'not switched on yet',
    -- The transaction that last changed what a daemon must know of this webhook: changes arrive as deliveries do.
    txid xid8 not null default pg_current_xact_id(),
    check (removed_at is null or not enabled),
    check (failing_since is not null or (failures = 0 and warned = 0 and next_probe_at is null and deactivates_at is null))
);

create index webhook_fan_out on bisd.webhook (account_id, topic) include (id, filter) where live;
create index webhook_account on bisd.webhook (account_id, id);
create index webhook_arrival on bisd.webhook (txid);

-- When a daemon was last known to run: what a webhook failed to take while none did is not held against it.
create table bisd.pulse (
    id boolean primary key default true check (id),
    at timestamptz not null default now()
);

insert into bisd.pulse default values;

-- One thing that happened, frozen when it happened: `body` is the text that is signed and sent at every attempt (type json
-- keeps the text as it was given). No foreign keys here and in `delivery`: they would lock the account's row in every
-- transaction of the application, and an event of an unknown account harms nobody.
create table bisd.event (
    id bigint generated always as identity,
    account_id bigint not null,
    topic bisd.topic not null,
    body json not null,
    created_at bisd.moment not null default now(),
    -- The webhook that this event is about: a test goes to it alone, and must have one (fan_out sees to that); what happened to
    -- it goes to others.
    webhook_id bigint,
    test boolean not null default false,
    -- The trace of the application that this happened in, if it says so: select set_config('bisd.traceparent', '00-...', true).
    -- What is none is no fault of the insert: there is no trace then.
    traceparent bisd.traceparent default substring(
        current_setting('bisd.traceparent', true) from '^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$'),
    primary key (id, created_at)
) partition by range (created_at);

create index event_about on bisd.event (id) where webhook_id is not null;

-- Nothing that housekeeping forgets may fail an insert of the application.
create table bisd.event_default partition of bisd.event default;

-- One event owed to one webhook. A settled delivery leaves the table.
create table bisd.delivery (
    webhook_id bigint not null,
    event_id bigint not null,
    -- The event's, so that a join with `event` prunes to one partition.
    event_created_at bisd.moment not null,
    -- Since when it has been owed: what `expires_after` counts from.
    owed_since bisd.moment not null default now(),
    due_at bisd.moment not null default now(),
    -- The transaction that made it due: what arrival goes by.
    txid xid8 not null default pg_current_xact_id(),
    attempts bisd.tally not null default 0,
    -- Octets of the event's body: how many deliveries a daemon reads at once depends on it.
    bytes bisd.octets not null,
    -- Sent at once and once, past the lane, whether its webhook is switched on or not.
    test boolean not null default false,
    -- Owed again by a replay; until it is sent it may be taken back.
    replayed boolean not null default false,
    primary key (webhook_id, event_id)
) with (
    -- Every row dies within seconds: vacuum by number, not by share, and at full speed.
    autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.0, autovacuum_analyze_threshold = 20000,
    fillfactor = 90
);

-- All rows, but that must be said by whoever wants this index: a session that plans while hardly anything is owed takes it to be
-- as good as the key for finding a single delivery, and would read a webhook's whole line for each when much is owed.
create index delivery_lane on bisd.delivery (webhook_id, due_at, event_id) where webhook_id > 0;
create index delivery_arrival on bisd.delivery (txid);
create index delivery_test on bisd.delivery (webhook_id) where test;
create index delivery_replayed on bisd.delivery (webhook_id) where replayed;

create type bisd.verdict as enum ('delivered', 'retry', 'postponed', 'failed', 'expired', 'refused', 'cancelled');

-- One POST and what came of it, append-only. What became of a delivery without a POST (expired while it waited, cancelled,
-- postponed by a fault of our own) is a row without a number: it counts for nothing. The key also makes a write-back that is repeated after a lost answer harmless.
create table bisd.attempt (
    event_id bigint not null,
    webhook_id bigint not null,
    attempted_at timestamptz not null,
    event_created_at timestamptz not null,
    number integer check (number > 0),
    verdict bisd.verdict not null,
    status smallint check (status between 0 and 999),
    test boolean not null default false,
    -- Sent twice: the first time on a connection that its receiver had closed, without a byte of an answer.
    resent boolean not null default false,
    code text,
    due_at timestamptz,
    dns_ms real,
    connect_ms real,
    tls_ms real,
    first_byte_ms real,
    total_ms real,
    answer bytea,
    -- Where a redirect led, which nobody followed.
    location text,
    primary key (event_id, webhook_id, attempted_at),
    check ((verdict in ('retry', 'postponed')) = (due_at is not null))
) partition by range (attempted_at);

create index attempt_webhook on bisd.attempt (webhook_id, attempted_at);

create table bisd.attempt_default partition of bisd.attempt default;

-- Partitions of both tables from today to `ahead` days on, named after their UTC day, and of the days before that the default
-- one has rows of; answers how many are new. Attached, not created in place: attaching asks only for a lock that the
-- application's inserts do not hold.
-- What came for a day while it had no partition was kept by the default one, and moves: nearly all of it while others go on
-- reading and writing, and only for the rest of it do they wait. They wait for the table itself: an insert that has chosen the
-- default one already and finds that the day is not its own any more would fail; and a query that knows its partitions already
-- and waits for the default one would find the rows neither there any more nor in the new one, of which it knows nothing. We
-- wait for less than PostgreSQL does before it looks for a deadlock: were there one, it is we who give up.
create function bisd.make_partitions(ahead integer) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    today date := (now() at time zone 'UTC')::date;
    parents text[] := '{}';
    days date[] := '{}';
    parent text;
    day date;
    moved bigint := 0;
begin
    perform pg_advisory_xact_lock(hashtext('bisd.partitions'));
    perform set_config('lock_timeout', '2s', true);
    foreach parent in array array['event', 'attempt'] loop
        for day in
            execute format(
                'select $1 + n from generate_series(0, $2) n union '
                '(select distinct (%1$I at time zone ''UTC'')::date from bisd.%2$I where %1$I < $1::timestamp at time zone ''UTC'' '
                'order by 1 limit 100) order by 1', bisd.partition_key(parent), parent || '_default') using today, ahead
        loop
            continue when to_regclass('bisd.' || bisd.partition_name(parent, day)) is not null;
            execute format('create table bisd.%I (like bisd.%I including defaults including constraints including indexes)',
                           bisd.partition_name(parent, day), parent);
            moved := moved + bisd.move_to_partition(parent, day);
            parents := parents || parent;
            days := days || day;
        end loop;
    end loop;
    if moved > 0 or today = any (days) then
        perform set_config('lock_timeout', '500ms', true);
        foreach parent in array array['event', 'attempt'] loop
            continue when parent <> all (parents);
            execute format('lock table only bisd.%I in access exclusive mode', parent);
            execute format('lock table bisd.%I in access exclusive mode', parent || '_default');
        end loop;
    end if;
    for n in 1 .. cardinality(days) loop
        if moved > 0 or today = any (days) then
            perform bisd.move_to_partition(parents[n], days[n]);
        end if;
        execute format('alter table bisd.%I attach partition bisd.%I for values from (%L) to (%L)', parents[n],
                       bisd.partition_name(parents[n], days[n]), bisd.midnight(days[n]), bisd.midnight(days[n] + 1));
    end loop;
    perform set_config('lock_timeout', '2s', true);
    return cardinality(days);
end $$;

create function bisd.partition_key(parent text) returns text
language sql immutable as $$ select case parent when 'event' then 'created_at' when 'attempt' then 'attempted_at' end $$;

create function bisd.partition_name(parent text, day date) returns text
language sql immutable as $$ select parent || '_' || pg_catalog.to_char(day, 'YYYYMMDD') $$;

-- When that UTC day begins.
create function bisd.midnight(day date) returns timestamptz
language sql immutable as $$ select day::timestamp at time zone 'UTC' $$;

-- What the default partition has of that day goes to the table that is to be the day's partition; how many rows.
create function bisd.move_to_partition(parent text, day date) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    moved bigint;
begin
    execute format(
        'with kept as (delete from bisd.%1$I where %2$I >= %3$L and %2$I < %4$L returning *) insert into bisd.%5$I select * from kept',
        parent || '_default', bisd.partition_key(parent), bisd.midnight(day), bisd.midnight(day + 1), bisd.partition_name(parent, day));
    get diagnostics moved = row_count;
    return moved;
end $$;

-- Drops the partitions of `parent` whose last day ended before `before`; answers their names. A partition of events in
-- which something is still owed stays. Dropping locks the parent, and the application's inserts wait behind who waits for a
-- lock: it gives up after a moment, and is done the next time.
create function bisd.drop_partitions(parent text, before timestamptz) returns setof text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    part text;
    day date;
    first bigint;
    last bigint;
begin
    if coalesce(parent not in ('event', 'attempt'), true) or before is null then
        raise exception 'bisd: partitions of "%" before % cannot be dropped', parent, coalesce(before::text, 'no known time')
            using errcode = 'BISD0', hint = 'They are those of event or attempt, before a time.';
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
        continue when bisd.midnight(day + 1) > before;
        if parent = 'event' then
            execute format('select min(id), max(id) from bisd.%I', part) into first, last;
            continue when bisd.is_owed(first, last, bisd.midnight(day), bisd.midnight(day + 1));
        end if;
        execute format('drop table bisd.%I', part);
        return next part;
    end loop;
end $$;

-- The webhooks that are owed something: a loose scan that touches one index entry per webhook, not per delivery.
create function bisd.owing() returns setof bigint
language sql stable as $$
    with recursive owing (webhook_id) as (
        (select webhook_id from bisd.delivery order by webhook_id limit 1)
        union all
        select (select d.webhook_id from bisd.delivery d where d.webhook_id > o.webhook_id order by d.webhook_id limit 1)
        from owing o
        where o.webhook_id is not null
    )
    select webhook_id from owing where webhook_id is not null
$$;

-- Whether something is owed of the events from `first` to `last` that happened from `since` until before `until`. A look at the
-- index for each webhook that owes something, not one at each delivery.
create function bisd.is_owed(first bigint, last bigint, since timestamptz, until timestamptz) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
    select exists (
        select
        from bisd.owing() o (webhook_id)
        cross join lateral (
            select
            from bisd.delivery d
            where d.webhook_id = o.webhook_id and d.event_id between first and last
              and d.event_created_at >= since and d.event_created_at < until
            limit 1
        ) owed)
$$;

select bisd.make_partitions(7);
