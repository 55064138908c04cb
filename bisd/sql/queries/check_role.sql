-- Who we are here: what this role could do besides its work, and how many sessions it may have (-1: any number). `line`: whether what
-- we say can be read on the way; null where nothing goes over a network.
select current_user::text as role, r.rolsuper as super, r.rolcreaterole as creates_roles,
       (select pg_has_role(n.nspowner, 'usage') from pg_catalog.pg_namespace n where n.nspname = 'bisd') as owner,
       r.rolconnlimit as role_limit, d.datconnlimit as database_limit,
       case when inet_server_addr() is null or inet_server_addr() << '127.0.0.0/8' or inet_server_addr() = '::1' then null
            else (select not s.ssl from pg_catalog.pg_stat_ssl s where s.pid = pg_backend_pid()) end as line,
       current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
           - coalesce(current_setting('reserved_connections', true), '0')::integer
           - (select sum(s.numbackends) from pg_catalog.pg_stat_database s)::integer as free
from pg_catalog.pg_roles r
cross join pg_catalog.pg_database d
where r.rolname = current_user and d.datname = current_database()
