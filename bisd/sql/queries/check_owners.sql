-- Things of the schema that do not belong to whom it belongs: one row each, with who owns them.
select owned.name, owned.owner::regrole::text as owner, n.nspowner::regrole::text as expected
from pg_catalog.pg_namespace n
cross join lateral (
    select format('bisd.%s', c.relname) as name, c.relowner as owner from pg_catalog.pg_class c
    where c.relnamespace = n.oid and c.relkind in ('r', 'p', 'v')
    union all
    select format('bisd.%s()', p.proname), p.proowner from pg_catalog.pg_proc p
    where p.pronamespace = n.oid and p.proname !~ '^attached_[0-9]+$'
) owned
where n.nspname = 'bisd' and owned.owner <> n.nspowner
order by owned.name
