-- Events out of a table that the application has already. `bisd.attach` writes a trigger function for it, as one would by
-- hand: one insert into bisd.event per statement, whatever number of rows. Unless it is asked to be strict, a fault on the way
-- is counted and told, and the application's statement goes on.

-- What was attached. The trigger is the truth about which table it is on (tgfoid is bisd.attached_<id>), so that a table may be
-- renamed, dropped, dumped and restored; `source` is the name it had.
create table bisd.attachment (
    id bigint generated always as identity primary key,
    source text not null,
    topic text not null check (topic ~ '^[!-~]{1,128}$'),
    on_event text not null check (on_event in ('insert', 'update')),
    account text not null,
    columns text[],
    body text,
    condition text,
    strict boolean not null,
    created_at timestamptz not null default now(),
    check ((columns is null) <> (body is null))
);

-- Events that were not made, append-only: a shared row to count in would make the application's transactions wait for each
-- other. No text of the fault, which may quote the row.
create table bisd.attachment_fault (
    attachment_id bigint not null,
    at timestamptz not null default clock_timestamp(),
    sqlstate text not null,
    events bigint not null
);

create index attachment_fault_last on bisd.attachment_fault (attachment_id, at);

-- The attachments and the tables they are on; null for a table that is gone.
create view bisd.attached as
select a.id, t.tgrelid as source, t.tgname as trigger, t.tgenabled <> 'D' as enabled
from bisd.attachment a
left join (
    pg_catalog.pg_proc p
    join pg_catalog.pg_trigger t on t.tgfoid = p.oid
) on p.pronamespace = 'bisd'::regnamespace and p.proname = 'attached_' || a.id;

-- Who may: the trigger's function runs as whoever attaches (security definer), for the application has no right on bisd's
-- tables; only the owner of a table can detach again.
create function bisd.require_attachable(source regclass) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    relation record;
begin
    select c.relkind, c.relpersistence, c.relispartition, c.relowner, n.nspname into relation
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where c.oid = source;
    if not found then
        raise exception 'bisd: there is no such table' using errcode = 'BISD0', hint = 'Name it as in SQL, like shop.orders.';
    end if;
    if relation.nspname = 'bisd' or relation.nspname ~ '^pg_' or relation.nspname = 'information_schema' then
        raise exception 'bisd: % is not a table of the application', source
            using errcode = 'BISD0', hint = 'bisd.notification has its events already; anything else can use bisd.emit.';
    end if;
    if relation.relkind not in ('r', 'p') or relation.relpersistence = 't' then
        raise exception 'bisd: % is not a table that lasts', source
            using errcode = 'BISD0', hint = 'Views, foreign and temporary tables cannot be watched: attach what is behind it.';
    end if;
    if relation.relispartition then
        raise exception 'bisd: % is a partition', source
            using errcode = 'BISD0', hint = 'Rows that come by the partitioned table would not be seen: attach that one.';
    end if;
    if not pg_has_role(relation.relowner, 'usage') then
        raise exception 'bisd: % belongs to %', source, relation.relowner::regrole
            using errcode = 'BISD0',
                  hint = format('Ask as its owner, or: grant %s to %I.', relation.relowner::regrole, current_user);
    end if;
    if not (has_schema_privilege('bisd', 'create') and has_table_privilege('bisd.event', 'insert')
            and has_table_privilege('bisd.attachment_fault', 'insert')) then
        raise exception 'bisd: % may not write events', current_user
            using errcode = 'BISD0', hint = 'Ask as the role that ran bisd migrate.';
    end if;
end $$;

-- The columns that a trigger sees, in order. PostgreSQL does not compute virtual ones for it.
create function bisd.visible_columns(source regclass) returns text[]
language sql stable set search_path = pg_catalog, pg_temp as $$
    select array_agg(attname::text order by attnum)
    from pg_attribute
    where attrelid = source and attnum > 0 and not attisdropped and attgenerated <> 'v'
$$;

-- How old and new are known to be one row: by the primary key, with the operator of its index; and what is true of a row
-- without a partner. Nulls if there is no key.
create function bisd.attached_key(source regclass, out same text, out alone text)
language sql stable set search_path = pg_catalog, pg_temp as $$
    select string_agg(format('new.%1$I operator(%2$I.%3$s) old.%1$I', a.attname, n.nspname, o.oprname), ' and ' order by k.nth),
           (array_agg(format('new.%1$I is null or old.%1$I is null', a.attname) order by k.nth))[1]
    from pg_index i
    cross join unnest(i.indkey::int2[], i.indclass::oid[]) with ordinality as k (attnum, opclass, nth)
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
    join pg_opclass c on c.oid = k.opclass
    join pg_am h on h.oid = c.opcmethod and h.amname = 'btree'
    join pg_amop m on m.amopfamily = c.opcfamily and m.amoplefttype = c.opcintype and m.amoprighttype = c.opcintype
                  and m.amopstrategy = 3
    join pg_operator o on o.oid = m.amopopr
    join pg_namespace n on n.oid = o.oprnamespace
    where i.indrelid = source and i.indisprimary
$$;

-- Refuses an expression that cannot be planned, or is not of one of `kinds`. It is planned over a table without rows; twice
-- named, so that a bare column is ambiguous: it has to say whether it means new or old. A cursor takes one statement only, so
-- that nothing is executed that an expression may have brought along.
create function bisd.require_expression(
    what text, expression text, kinds regtype[], source regclass, paired boolean
) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    seen text;
    found_kind record;
    hint text := case when paired then 'It sees the row as new and as old' else 'It sees the row as new' end
        || ', like new.total; functions outside pg_catalog need their schema.';
begin
    select format('(select %s from (select (null::%s).*) as one limit 0)', string_agg(format('one.%I', name), ', '), source)
    into seen
    from unnest(bisd.visible_columns(source)) as name;
    for found_kind in execute format(
        E'select pg_typeof(it.value) as kind from (values (1)) as one left join ('
        'select (%1$s\n) as value from %2$s as new cross join %2$s as %3$s where (%1$s\n) is not null) as it on true',
        expression, seen, case when paired then 'old' else 'also' end)
    loop
        select case typtype when 'd' then typbasetype else oid end::regtype as kind into found_kind
        from pg_type where oid = found_kind.kind;
    end loop;
    if not found_kind.kind = any (kinds) then
        raise exception 'bisd: % is of type %, not %', what, found_kind.kind, kinds[1]
            using errcode = 'BISD0',
                  hint = case kinds[1] when 'json'::regtype then 'row_to_json gives the most compact form.' else hint end;
    end if;
exception
    when sqlstate 'BISD0' then
        raise;
    when others then
        raise exception 'bisd: % cannot be used: %', what, sqlerrm using errcode = 'BISD0', hint = hint;
end $$;

-- Ends a row that no event can be made of. Volatile, so that it is not called before there is one.
create function bisd.no_event(state text) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    raise exception 'bisd: %', case state
            when 'BISD1' then 'the key of an updated row has changed; what it was before cannot be told'
            else format('the body of an event would have more than %s bytes', bisd.max_body_bytes())
        end using errcode = state;
end $$;

-- The rest of a statement that had a fault: what could be made of its rows. Answers the SQLSTATE of each event that was not.
create function bisd.insert_events(topic text, account_ids bigint[], bodies json[]) returns text[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    insert into bisd.event (account_id, topic, body)
    select made.account_id, insert_events.topic, made.body
    from unnest(account_ids, bodies) as made (account_id, body);
    return '{}';
exception
    when serialization_failure then
        raise;
    when others then
        return array_fill(sqlstate, array[cardinality(bodies)]);
end $$;

-- Counts events that were not made, by the SQLSTATE of each, and tells the application and the server's log.
create function bisd.record_faults(attachment_id bigint, faults text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    fault record;
begin
    for fault in select f.state, count(*) as events from unnest(faults) as f (state) group by f.state order by f.state loop
        raise warning 'bisd: attachment % has not made % event(s): SQLSTATE %', attachment_id, fault.events, fault.state;
        insert into bisd.attachment_fault (attachment_id, sqlstate, events)
        values (record_faults.attachment_id, fault.state, fault.events);
    end loop;
exception
    when others then
        raise warning 'bisd: attachment % cannot count its faults: SQLSTATE %', attachment_id, sqlstate;
end $$;

-- The events of `rows`, as a query: (account_id, body). Each body is made once (offset 0), then measured and kept.
create function bisd.attached_query(a bisd.attachment, rows text, alone text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
    select format(
        $query$
            select made.account_id, made.body
            from (
                select (%s
                )::bigint as account_id, (%s
                )::json as body
                from %s%s
                where case when %s then bisd.no_event('BISD1') else (%s
                ) end
                offset 0
            ) as made
            where case when octet_length(made.body::text) > bisd.max_body_bytes() then bisd.no_event('BISD2') else true end
        $query$,
        a.account,
        coalesce(a.body, 'row_to_json(body.*)'),
        rows,
        ' cross join lateral (select '
            || (select string_agg(format('new.%1$I as %1$I', c.name), ', ' order by c.nth)
                from unnest(a.columns) with ordinality as c (name, nth))
            || ') as body',
        coalesce(alone, 'false'),
        coalesce(a.condition, 'true'))
$$;

-- The text of the trigger's function. It may fail where it runs only: what is planned or looked up before its first block would
-- be the application's fault to bear.
--
-- Old and new rows are joined by a full join, which is never a nested loop: a session plans this once, by the size of its first
-- statement, and an update of one row must not leave a plan behind that compares each of ten thousand with each. (Settings on
-- the function would do so too, but they would hold for the expressions' own queries as well.) A row without a partner is
-- one whose key has changed.
--
-- After a fault the rows are tried one by one: made in a savepoint each, which without a write costs the transaction no id,
-- and inserted together. A serialization failure is the transaction's own and is passed on, as a cancelled query is.
create function bisd.attached_text(a bisd.attachment, same text, alone text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
    select format(
        case when a.strict then $strict$
#variable_conflict use_column
begin
    insert into bisd.event (account_id, topic, body)
    select fact.account_id, %2$L, fact.body from (%3$s) as fact;
    return null;
end $strict$ else $lenient$
#variable_conflict use_column
begin
    begin
        insert into bisd.event (account_id, topic, body)
        select fact.account_id, %2$L, fact.body from (%3$s) as fact;
        return null;
    exception
        when serialization_failure then
            raise;
        when others then
            null;
    end;
    declare
        pair record;
        fact record;
        account_ids bigint[] := '{}';
        bodies json[] := '{}';
        faults text[] := '{}';
        kind text := tg_relid::regclass::text;
    begin
        for pair in execute 'select (new.*)::' || kind || ' as new_row, ' || %5$L || '::' || kind || ' as old_row ' || %6$L loop
            begin
                for fact in %4$s loop
                    if fact.account_id is null or fact.body is null then
                        raise not_null_violation;
                    end if;
                    account_ids := account_ids || fact.account_id;
                    bodies := bodies || fact.body;
                end loop;
            exception
                when serialization_failure then
                    raise;
                when others then
                    faults := faults || sqlstate;
            end;
            if cardinality(bodies) = 1000 then
                faults := faults || bisd.insert_events(%2$L, account_ids, bodies);
                account_ids := '{}';
                bodies := '{}';
            end if;
        end loop;
        faults := faults || bisd.insert_events(%2$L, account_ids, bodies);
        perform bisd.record_faults(%1$s, faults);
    exception
        when serialization_failure then
            raise;
        when others then
            raise warning 'bisd: attachment %1$s cannot say which events it has not made: SQLSTATE %%', sqlstate;
    end;
    return null;
end $lenient$ end,
        a.id,
        a.topic,
        bisd.attached_query(a, 'new_rows as new' || coalesce(' full join old_rows as old on ' || same, ''), alone),
        bisd.attached_query(
            a,
            '(select (pair.new_row).*) as new'
                || case when same is null then '' else ' cross join (select (pair.old_row).*) as old' end,
            alone),
        case when same is null then 'null' else '(old.*)' end,
        'from new_rows as new' || coalesce(' left join old_rows as old on ' || same, ''))
$$;

-- What is left of an attachment without its trigger.
create function bisd.forget_attachment(id bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    execute format('drop function if exists bisd.%I()', 'attached_' || id);
    delete from bisd.attachment_fault f where f.attachment_id = forget_attachment.id;
    delete from bisd.attachment a where a.id = forget_attachment.id;
end $$;

-- Makes events out of a table. Account, body and condition are expressions over the row as `new`, and for an update over what
-- it was as `old`; account may be the name of a column. The body is an object of `columns`, in their order: of all that the
-- table has today if none are named (one that is added later is told to nobody before somebody says so); or it is what the
-- expression `body` gives. A lock is waited for a moment only: the application would wait behind.
create function bisd.attach(
    source regclass, topic text, on_event text, account text, columns text[] default null, body text default null,
    condition text default null, strict boolean default false
) returns void
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
declare
    visible text[] := bisd.visible_columns(source);
    paired boolean;
    made bisd.attachment;
    key record;
begin
    perform bisd.require_attachable(source);
    perform bisd.require_topic(topic);
    if on_event is null or on_event not in ('insert', 'update') then
        raise exception 'bisd: "%" is nothing to attach to', on_event
            using errcode = 'BISD0', hint = 'An event can be made on insert or on update.';
    end if;
    if columns is not null and body is not null then
        raise exception 'bisd: the body is either columns or an expression'
            using errcode = 'BISD0', hint = 'Leave one of them out.';
    end if;
    if cardinality(columns) = 0 or not columns <@ visible
       or cardinality(columns) <> (select count(distinct c) from unnest(columns) c) then
        raise exception 'bisd: % cannot be the columns of the body',
            coalesce((select string_agg(quote_ident(c), ', ') from unnest(columns) c), 'none')
            using errcode = 'BISD0',
                  hint = format('Each once, of: %s.', (select string_agg(quote_ident(c), ', ') from unnest(visible) c));
    end if;
    if account is null or account = '' then
        raise exception 'bisd: whose event it is must be said'
            using errcode = 'BISD0', hint = 'By a column, or an expression like new.shop_id.';
    end if;
    paired := on_event = 'update' and concat_ws(' ', account, body, condition) ~* '\mold\M';
    if account = any (visible) then
        account := format('new.%I', account);
    end if;
    perform bisd.require_expression('the account ' || left(account, 100), account, '{bigint,integer,smallint}', source, paired);
    if body is not null then
        perform bisd.require_expression('the body ' || left(body, 100), body, '{json}', source, paired);
    end if;
    if condition is not null then
        perform bisd.require_expression('the condition ' || left(condition, 100), condition, '{boolean}', source, paired);
    end if;
    select * into key from bisd.attached_key(source) where paired;
    if paired and key.same is null then
        raise exception 'bisd: % has no primary key, by which old and new are known to be one row', source
            using errcode = 'BISD0', hint = 'Give it one, or use new alone.';
    end if;
    perform pg_advisory_xact_lock(hashtext('bisd.attach'));
    perform bisd.forget_attachment(t.id) from bisd.attached t where t.source is null;
    if exists (select from bisd.attached t join bisd.attachment a using (id)
               where t.source = attach.source and a.topic = attach.topic and a.on_event = attach.on_event) then
        raise exception 'bisd: % is attached already: % on %', source, topic, on_event
            using errcode = 'BISD0', hint = 'bisd detach ends that; both in one transaction loses nothing.';
    end if;
    insert into bisd.attachment (source, topic, on_event, account, columns, body, condition, strict)
    values (source::text, topic, on_event, account, case when body is null then coalesce(columns, visible) end, body, condition,
            coalesce(strict, false))
    returning * into made;
    execute format(
        'create function bisd.%I() returns trigger language plpgsql security definer '
        'set search_path = pg_catalog, pg_temp as %L',
        'attached_' || made.id, bisd.attached_text(made, key.same, key.alone));
    execute format('revoke all on function bisd.%I() from public', 'attached_' || made.id);
    execute format(
        'create trigger %I after %s on %s referencing new table as new_rows%s for each statement execute function bisd.%I()',
        'bisd_attached_' || made.id, on_event, source, case when key.same is null then '' else ' old table as old_rows' end,
        'attached_' || made.id);
end $$;

-- Ends what is attached to a table, for one topic or for all. Events that there are stay, and what is owed for them goes out.
create function bisd.detach(source regclass, topic text default null) returns void
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
declare
    one record;
    ended boolean := false;
begin
    perform bisd.require_attachable(source);
    for one in
        select t.id, t.trigger
        from bisd.attached t
        join bisd.attachment a using (id)
        where t.source = detach.source and (detach.topic is null or a.topic = detach.topic)
    loop
        execute format('drop trigger %I on %s', one.trigger, source);
        perform bisd.forget_attachment(one.id);
        ended := true;
    end loop;
    if not ended then
        raise exception 'bisd: nothing is attached to %', concat_ws(' for ', source, topic)
            using errcode = 'BISD0', hint = 'bisd attachments shows what is.';
    end if;
end $$;

-- Faults are remembered as long as attempts are.
create function bisd.forget_faults(before timestamptz) returns void
language sql security definer set search_path = pg_catalog, pg_temp as $$
    delete from bisd.attachment_fault f where f.at < before
$$;

revoke all on bisd.attachment, bisd.attachment_fault, bisd.attached from public;
revoke all on all functions in schema bisd from public;

do $$
declare
    role text;
begin
    foreach role in array array['bisd_daemon', 'bisd_reader'] loop
        if exists (select from pg_catalog.pg_roles where rolname = role) then
            execute format('grant select on bisd.attachment, bisd.attachment_fault, bisd.attached to %I', role);
        end if;
    end loop;
    if exists (select from pg_catalog.pg_roles where rolname = 'bisd_daemon') then
        grant execute on function bisd.forget_faults(timestamptz) to bisd_daemon;
    end if;
end $$;
