-- What the HTTP face of a daemon keeps: who may ask (tokens of accounts), and what was answered to a request that may come twice.
-- And what it asks of the history: whatever there is, a bounded part of it.

-- A token of an account's programs. Only its hash is kept: whoever reads this table can ask nothing with it.
create table bisd.token (
    id bigint generated always as identity primary key,
    account_id bigint not null references bisd.account (id),
    sha256 bytea not null unique check (length(sha256) = 32),
    description text not null default '' check (length(description) <= 200),
    created_at timestamptz not null default now(),
    expires_at bisd.moment,
    revoked_at timestamptz,
    -- To the minute.
    last_used_at timestamptz
);

create index token_account on bisd.token (account_id, id);

-- A new token of an account, which is answered this once.
create function bisd.create_token(account_id bigint, description text, expires_at timestamptz, out id bigint, out token text)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform bisd.require_account(create_token.account_id);
    if length(description) > 200 then
        raise exception 'bisd: the description of a token has at most 200 characters'
            using errcode = 'BISD0', hint = 'Say which program it is for.';
    end if;
    if expires_at <= now() or expires_at > now() + interval '10 years' then
        raise exception 'bisd: a token cannot expire at %', expires_at
            using errcode = 'BISD0', hint = 'In the future, and within ten years; or never, by leaving it out.';
    end if;
    token := 'bist_' || substr(bisd.new_api_key(), 5);
    insert into bisd.token as t (account_id, sha256, description, expires_at)
    values (create_token.account_id, sha256(convert_to(token, 'UTF8')), coalesce(create_token.description, ''), create_token.expires_at)
    returning t.id into create_token.id;
end $$;

-- From now on it opens nothing.
create function bisd.revoke_token(id bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    update bisd.token t set revoked_at = coalesce(t.revoked_at, now()) where t.id = revoke_token.id;
    if not found then
        raise exception 'bisd: there is no token %', id
            using errcode = 'BISD0', hint = 'bisd token list shows those there are.';
    end if;
end $$;

-- The account whose token has this hash; null if it is none, or none any more. That it was used is noted once a minute.
create function bisd.use_token(sha256 bytea) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    known bisd.token;
begin
    select t.* into known from bisd.token t
    where t.sha256 = use_token.sha256 and t.revoked_at is null and (t.expires_at is null or t.expires_at > now());
    if coalesce(known.last_used_at, '-infinity') < now() - interval '1 minute' then
        update bisd.token t set last_used_at = now()
        where t.id = (select u.id from bisd.token u where u.id = known.id for update skip locked);
    end if;
    return known.account_id;
end $$;

-- What was answered to a request that bore an Idempotency-Key. `name` is the hash of the caller's token and that key, `request`
-- that of all that was asked; the answer may hold an API key, and is sealed by what only the caller knows.
create table bisd.answered (
    name bytea primary key check (length(name) = 32),
    request bytea not null check (length(request) = 32),
    sealed bytea not null,
    created_at timestamptz not null default now()
);

create index answered_created on bisd.answered (created_at);

-- Answers that were given before `before`; answers how many are forgotten.
create function bisd.forget_answers(before timestamptz) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    forgotten bigint;
begin
    delete from bisd.answered a where a.created_at < before;
    get diagnostics forgotten = row_count;
    return forgotten;
end $$;

-- The attempts that were written before a place in the history, the last ones first: `most` at most; with the verdict `wanted`, unless
-- that is null; only those that settled their delivery, if `settled`. `part` and `place` are a partition and a row in it, null for
-- the end. What is looked at is bounded, 4 MiB of the table, whatever there is: a row without an event says how far that went, and
-- there is none where nothing is left to look at. A partition is written at its end alone, so it is in the order of time, or nearly.
create function bisd.attempts_before(
    part text, place tid, wanted bisd.verdict, settled boolean, since timestamptz, until timestamptz, most integer
) returns table (at_part text, at_place tid, event_id bigint, webhook_id bigint, attempted_at timestamptz, verdict bisd.verdict)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    block integer := current_setting('block_size')::integer;
    pages bigint := (4 << 20) / block;
    missing integer := most;
    before tid;
    last bigint;
    first bigint;
    stretch bigint := 16;
    found_rows integer;
begin
    perform from only bisd.attempt;  -- no partition can be dropped from here on
    for at_part, last in
        select c.relname::text, pg_relation_size(c.oid) / block
        from pg_inherits i
        join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'bisd.attempt'::regclass and c.relname <= coalesce(part, 'b')
          and (until is null or c.relname !~ '_[0-9]{8}$' or to_date(right(c.relname, 8), 'YYYYMMDD') <= (until at time zone 'UTC')::date)
          and (since is null or c.relname !~ '_[0-9]{8}$' or to_date(right(c.relname, 8), 'YYYYMMDD') >= (since at time zone 'UTC')::date)
        order by c.relname desc
    loop
        continue when coalesce(last, 0) = 0;  -- empty, or dropped since the query began
        before := format('(%s,0)', last)::tid;
        if at_part = part and place is not null then
            before := place;
            last := (place::text::point)[0]::bigint + 1;
        end if;
        -- What is asked for is mostly at the end: a short stretch first, and longer ones where that has too little of it.
        while last > 0 and missing > 0 and pages > 0 loop
            first := greatest(0, last - least(stretch, pages));
            found_rows := 0;
            for at_place, event_id, webhook_id, attempted_at, verdict in execute format(
                'select a.ctid, a.event_id, a.webhook_id, a.attempted_at, a.verdict from bisd.%I a '
                'where a.ctid >= $1 and a.ctid < $2 and ($3 is null or a.verdict = $3) '
                'and (not $4 or a.verdict not in (''retry'', ''postponed'')) '
                'and ($5 is null or a.attempted_at >= $5) and ($6 is null or a.attempted_at < $6) order by a.ctid desc limit $7', at_part)
                using format('(%s,0)', first)::tid, before, wanted, settled, since, until, missing
            loop
                found_rows := found_rows + 1;
                return next;
            end loop;
            missing := missing - found_rows;
            pages := pages - (last - first);
            stretch := stretch * 4;
            before := format('(%s,0)', first)::tid;
            last := first;
        end loop;
        exit when missing = 0;
        if pages <= 0 then
            at_place := before;
            event_id := null;
            webhook_id := null;
            attempted_at := null;
            verdict := null;
            return next;
            exit;
        end if;
    end loop;
end $$;

-- The attempts since `since`, each with how many it stands for, by steps of `step` of time. About `pages` of the history are read:
-- all of it, if it has no more; else of each step the same number, evenly spaced. Which pages are a step's is found by halving, as a
-- partition is written at its end alone and is in the order of time, or nearly; an attempt itself counts where its own time is.
create function bisd.sampled_attempts(
    since timestamptz, step interval, pages integer,
    out exact boolean, out stands_for double precision,
    out attempted_at timestamptz, out verdict bisd.verdict, out status smallint, out total_ms real
) returns setof record
language plpgsql stable rows 20000 security definer set search_path = pg_catalog, pg_temp as $$
declare
    share bigint;
    part regclass;
    size bigint;
    ends timestamptz;
    first bigint;
    previous bigint;
    low bigint;
    high bigint;
    stride bigint;
    middle bigint;
    latest timestamptz;
    page bigint;
    following bigint;
begin
    perform from only bisd.attempt;  -- no partition can be dropped from here on
    for part, size, ends, exact, share in
        select p.part, p.size, date_bin(step, greatest(p.midnight, since), since), sum(p.size) over () <= pages,
               floor(pages / (count(*) over () + greatest(0, extract(epoch from now() - since)) / extract(epoch from step))) - 1
        from (
            select c.oid as part, pg_relation_size(c.oid) / current_setting('block_size')::integer as size,
                   case when c.relname ~ '_[0-9]{8}$' then bisd.midnight(to_date(right(c.relname, 8), 'YYYYMMDD')) end as midnight
            from pg_inherits i
            join pg_class c on c.oid = i.inhrelid
            where i.inhparent = 'bisd.attempt'::regclass
        ) p
        where p.size > 0 and coalesce(p.midnight + interval '1 day' > since, true)
    loop
        share := greatest(1, share);
        first := 0;
        previous := 0;
        high := 0;
        while first < size loop
            -- The pages from `first` on and before `high`, the first one that reaches the end of the step: as many as the last time,
            -- or twice that, and so on, and then by halves.
            low := first - 1;
            stride := greatest(1, high - previous);
            high := size;
            while not exact and ends <= now() and low + 1 < high loop
                middle := case when stride > 0 then least(low + stride, high - 1) else (low + high) / 2 end;
                execute format('select max(a.attempted_at) from %s a where a.ctid >= $1 and a.ctid < $2', part)
                into latest using format('(%s,0)', middle)::tid, format('(%s,0)', middle + 1)::tid;
                if latest >= ends then
                    high := middle;
                    stride := 0;
                else
                    low := middle;
                    stride := stride * 2;
                end if;
            end loop;
            -- The first of them has something of the steps before as well, and stands for itself alone: of a quiet step it may be
            -- all there is. One at least stands for the others.
            page := first;
            following := case when exact or high - first <= share + 1 then high else page + 1 end;
            stands_for := 1;
            for n in 1 .. share + 1 loop
                return query execute format(
                    'select $1, $2, a.attempted_at, a.verdict, a.status, a.total_ms from %s a '
                    'where a.ctid >= $3 and a.ctid < $4 and a.attempted_at >= $5 and not a.test', part)
                    using exact, stands_for, format('(%s,0)', page)::tid, format('(%s,0)', following)::tid, since;
                exit when following = high or n > share;
                page := first + 1 + (2 * n - 1) * (high - first - 1) / (2 * share);
                following := page + 1;
                stands_for := (high - first - 1)::double precision / share;
            end loop;
            previous := first;
            first := high;
            ends := ends + step;
        end loop;
    end loop;
end $$;

-- One delivery, as in bisd.delivery_status; none if there is none. Attempts are looked for by their event (webhook_id + 0): of few
-- rows the planner takes an index by webhook to be as good, and a session keeps that plan when there are many.
create function bisd.delivery_of(event_id bigint, webhook_id bigint) returns setof bisd.delivery_status
language sql stable as $$
    select
        k.event_id, k.webhook_id, w.account_id, w.topic,
        case when d.webhook_id is null then a.verdict::text when w.removed_at is not null then 'cancelled'
             when not (w.live or d.test) then 'held' when d.attempts = 0 then 'pending' else 'retrying' end,
        case when d.webhook_id is null then coalesce(a.number, posted.number, 0) else d.attempts end::integer,
        coalesce(a.status, posted.status)::integer,
        coalesce(a.code, posted.code),
        case when w.live or d.test then d.due_at end,
        case when d.webhook_id is null then a.event_created_at else d.event_created_at end::timestamptz,
        case when d.webhook_id is null then a.attempted_at + coalesce(a.total_ms, 0) * interval '1 millisecond' end
    from (select delivery_of.event_id, delivery_of.webhook_id) k
    join bisd.webhook w on w.id = k.webhook_id
    left join bisd.delivery d on d.webhook_id = k.webhook_id and d.event_id = k.event_id
    left join lateral (
        select t.webhook_id, t.verdict, t.number, t.status, t.code, t.event_created_at, t.attempted_at, t.total_ms
        from bisd.attempt t
        where t.event_id = k.event_id and t.webhook_id + 0 = k.webhook_id
          and case when d.webhook_id is null then t.verdict not in ('retry', 'postponed') else d.attempts > 0 end
        order by t.attempted_at desc
        limit 1
    ) a on true
    left join lateral (
        select t.number, t.status, t.code
        from bisd.attempt t
        where d.webhook_id is null and a.number is null and t.number is not null
          and t.event_id = k.event_id and t.webhook_id + 0 = k.webhook_id and t.attempted_at <= a.attempted_at
        order by t.attempted_at desc
        limit 1
    ) posted on true
    where d.webhook_id is not null or a.webhook_id is not null
$$;

-- One row if this attempt is the one that its delivery is listed by: of what is owed and was tried, the last; of what was settled,
-- the last that settled it. (A set, and nothing that keeps it from being inlined; webhook_id + 0: as above.)
create function bisd.last_of_delivery(webhook_id bigint, event_id bigint, attempted_at timestamptz, verdict bisd.verdict)
returns setof integer
language sql stable as $$
    select 1
    where case
        when last_of_delivery.verdict in ('retry', 'postponed') then
            exists (select from bisd.delivery d
                    where d.webhook_id = last_of_delivery.webhook_id and d.event_id = last_of_delivery.event_id and d.attempts > 0)
            and not exists (select from bisd.attempt n
                            where n.event_id = last_of_delivery.event_id and n.webhook_id + 0 = last_of_delivery.webhook_id
                              and n.attempted_at > last_of_delivery.attempted_at)
        else
            not exists (select from bisd.delivery d
                        where d.webhook_id = last_of_delivery.webhook_id and d.event_id = last_of_delivery.event_id)
            and not exists (select from bisd.attempt n
                            where n.event_id = last_of_delivery.event_id and n.webhook_id + 0 = last_of_delivery.webhook_id
                              and n.attempted_at > last_of_delivery.attempted_at and n.verdict not in ('retry', 'postponed'))
        end
$$;

revoke all on bisd.token, bisd.answered from public;
revoke all on function bisd.create_token(bigint, text, timestamptz), bisd.revoke_token(bigint), bisd.use_token(bytea),
    bisd.forget_answers(timestamptz),
    bisd.attempts_before(text, tid, bisd.verdict, boolean, timestamptz, timestamptz, integer),
    bisd.sampled_attempts(timestamptz, interval, integer), bisd.delivery_of(bigint, bigint),
    bisd.last_of_delivery(bigint, bigint, timestamptz, bisd.verdict) from public;

do $$
begin
    if exists (select from pg_catalog.pg_roles where rolname = 'bisd_reader') then
        grant execute on function bisd.attempts_before(text, tid, bisd.verdict, boolean, timestamptz, timestamptz, integer),
            bisd.sampled_attempts(timestamptz, interval, integer),
            bisd.delivery_of(bigint, bigint), bisd.last_of_delivery(bigint, bigint, timestamptz, bisd.verdict) to bisd_reader;
    end if;
    if exists (select from pg_catalog.pg_roles where rolname = 'bisd_daemon') then
        grant execute on function bisd.use_token(bytea), bisd.forget_answers(timestamptz),
            bisd.attempts_before(text, tid, bisd.verdict, boolean, timestamptz, timestamptz, integer),
            bisd.sampled_attempts(timestamptz, interval, integer),
            bisd.delivery_of(bigint, bigint), bisd.last_of_delivery(bigint, bigint, timestamptz, bisd.verdict) to bisd_daemon;
    end if;
    -- What an operator may do by the HTTP face: granted to the daemon's login, or to that of whoever gives orders.
    if exists (select from pg_catalog.pg_roles where rolname = 'bisd_admin') then
        grant usage on schema bisd to bisd_admin;
        grant select on bisd.plan, bisd.account, bisd.webhook, bisd.event, bisd.delivery, bisd.attempt, bisd.delivery_status,
            bisd.webhook_health, bisd.migration, bisd.attached, bisd.attachment, bisd.attachment_fault to bisd_admin;
        grant select (id, account_id, description, created_at, expires_at, revoked_at, last_used_at) on bisd.token to bisd_admin;
        grant select, insert on bisd.answered to bisd_admin;
        grant execute on function
            bisd.create_account(text, text), bisd.rotate_key(bigint, interval), bisd.set_plan(bigint, text),
            bisd.create_webhook(bigint, text, text), bisd.set_webhook(bigint, jsonb), bisd.enable_webhook(bigint, text),
            bisd.disable_webhook(bigint), bisd.remove_webhook(bigint), bisd.send_test(bigint), bisd.emit(bigint, text, json),
            bisd.retry(bigint, bigint), bisd.cancel(bigint, bigint), bisd.cancel_replay(bigint),
            bisd.replay(bigint, timestamptz, timestamptz, boolean, double precision),
            bisd.seal_keys(bigint[], bytea[], bytea[], text[], text[]), bisd.create_token(bigint, text, timestamptz),
            bisd.revoke_token(bigint), bisd.require_webhook(bigint), bisd.owing(), bisd.recent(),
            bisd.webhook_state(boolean, boolean, text, timestamptz, timestamptz),
            bisd.attempts_before(text, tid, bisd.verdict, boolean, timestamptz, timestamptz, integer),
            bisd.sampled_attempts(timestamptz, interval, integer),
            bisd.delivery_of(bigint, bigint), bisd.last_of_delivery(bigint, bigint, timestamptz, bisd.verdict) to bisd_admin;
    end if;
end $$;
