-- Four roles with the least rights; grant one of them to a login role. Roles belong to the whole server: where the one
-- who migrates may not make them, and nobody has, the grants are left out with a notice.
do $$
declare
    role text;
begin
    foreach role in array array['bisd_app', 'bisd_daemon', 'bisd_reader', 'bisd_admin'] loop
        begin
            if not exists (select from pg_catalog.pg_roles where rolname = role) then
                execute format('create role %I nologin', role);
            end if;
        exception
            when duplicate_object or unique_violation then null;  -- made by another database's migration just now
            when insufficient_privilege then
                raise notice 'bisd: role % is missing and may not be created; have an administrator create it and grant by hand', role;
        end;
    end loop;
end $$;

revoke all on all functions in schema bisd from public;
revoke all on all tables in schema bisd from public;

do $$
begin
    if exists (select from pg_catalog.pg_roles where rolname = 'bisd_app') then
        grant usage on schema bisd to bisd_app;
        grant select, insert, update on bisd.notification to bisd_app;
        grant select on bisd.webhook_event to bisd_app;
        grant execute on function bisd.emit(bigint, text, json) to bisd_app;
    end if;
    if exists (select from pg_catalog.pg_roles where rolname = 'bisd_reader') then
        grant usage on schema bisd to bisd_reader;
        grant select on bisd.delivery_status, bisd.webhook_health, bisd.plan, bisd.delivery, bisd.migration to bisd_reader;
        -- A view asks for its reader's right to call what it calls.
        grant execute on function bisd.webhook_state(boolean, boolean, text, timestamptz, timestamptz), bisd.owing(), bisd.recent() to bisd_reader;
        grant select (id, name, plan, created_at) on bisd.account to bisd_reader;
        grant select (id, account_id, topic, url, description, enabled, live, max_in_flight, rate, ordered, filter, created_at,
                      removed_at, switched_at, off_reason, failing_since, failures, warned, deactivates_at, next_probe_at,
                      note) on bisd.webhook to bisd_reader;
        grant select (id, account_id, topic, created_at, webhook_id, test) on bisd.event to bisd_reader;
        grant select (event_id, webhook_id, attempted_at, event_created_at, number, verdict, status, test, code, due_at, dns_ms, connect_ms, tls_ms,
                      first_byte_ms, total_ms) on bisd.attempt to bisd_reader;
    end if;
    if exists (select from pg_catalog.pg_roles where rolname = 'bisd_daemon') then
        grant usage on schema bisd to bisd_daemon;
        grant select on all tables in schema bisd to bisd_daemon;
        grant update, delete on bisd.delivery to bisd_daemon;
        grant insert on bisd.attempt to bisd_daemon;
        grant execute on function bisd.make_partitions(integer), bisd.drop_partitions(text, timestamptz), bisd.restamp(),
            bisd.forget_webhooks(timestamptz), bisd.beat(), bisd.members(interval), bisd.owing(), bisd.recent(), bisd.webhook_state(boolean, boolean, text, timestamptz, timestamptz),
            bisd.report(bigint, timestamptz, integer, integer, timestamptz, timestamptz, integer, text, text) to bisd_daemon;
    end if;
end $$;
