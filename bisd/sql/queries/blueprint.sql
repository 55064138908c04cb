-- What the schema bisd is made of, one row for each thing: its kind, its name and how it is defined; as sql/blueprint.tsv keeps it of
-- what the migrations make. Asked with search_path pg_catalog and times in UTC, so that all servers from 14 on write it alike. Not in
-- it: partitions, which come and go; what bisd.attach makes; the text of views, which each version of PostgreSQL writes its own way.
with relation as (
    select c.oid, c.relname, c.relkind, c.relpersistence, c.relrowsecurity, c.relforcerowsecurity, c.relacl
    from pg_class c
    where c.relnamespace = 'bisd'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f') and not c.relispartition
), routine as (
    select p.*, format('bisd.%s(%s)', p.proname, pg_get_function_identity_arguments(p.oid)) as name
    from pg_proc p
    where p.pronamespace = 'bisd'::regnamespace and p.proname !~ '^attached_[0-9]+$'
), thing as (
    select case r.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'f' then 'foreign table' else 'table' end as kind,
           'bisd.' || r.relname as name,
           concat_ws(', ',
               case when r.relkind = 'p' then 'partition by ' || pg_get_partkeydef(r.oid) end,
               case r.relpersistence when 'u' then 'unlogged' when 't' then 'temporary' end,
               case when r.relrowsecurity then 'row security' end,
               case when r.relforcerowsecurity then 'row security forced' end) as definition
    from relation r
    union all
    select 'sequence', 'bisd.' || c.relname,
           format('%s, %s to %s by %s', format_type(s.seqtypid, null), s.seqmin, s.seqmax, s.seqincrement)
    from pg_sequence s
    join pg_class c on c.oid = s.seqrelid
    where c.relnamespace = 'bisd'::regnamespace
      and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'i')
    union all
    select 'column', format('bisd.%s.%s', r.relname, a.attname),
           concat_ws(' ',
               format_type(a.atttypid, a.atttypmod),
               case when a.attcollation <> 0 and a.attcollation <> t.typcollation then 'collate ' || a.attcollation::regcollation end,
               case when a.attnotnull then 'not null' end,
               case a.attidentity when 'a' then 'identity always' when 'd' then 'identity by default' end,
               case when a.attgenerated = '' then 'default ' else 'generated ' end || pg_get_expr(d.adbin, d.adrelid))
    from relation r
    join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
    join pg_type t on t.oid = a.atttypid
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    union all
    select 'constraint', format('bisd.%s.%s', r.relname, k.conname),
           pg_get_constraintdef(k.oid) || case when k.convalidated then '' else ' not valid' end
    from relation r
    join pg_constraint k on k.conrelid = r.oid and k.contype in ('c', 'f', 'p', 'u', 'x')
    union all
    select 'index', 'bisd.' || x.relname, pg_get_indexdef(i.indexrelid) || case when i.indisvalid then '' else ' (invalid)' end
    from relation r
    join pg_index i on i.indrelid = r.oid
    join pg_class x on x.oid = i.indexrelid
    union all
    select 'trigger', format('bisd.%s.%s', r.relname, g.tgname), pg_get_triggerdef(g.oid)
    from relation r
    join pg_trigger g on g.tgrelid = r.oid and not g.tgisinternal
    union all
    select 'function', p.name,
           concat_ws(', ',
               'returns ' || pg_get_function_result(p.oid),
               (select l.lanname from pg_language l where l.oid = p.prolang),
               case p.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end,
               case when p.prosecdef then 'security definer' end,
               case when p.proisstrict then 'strict' end,
               'set ' || array_to_string(p.proconfig, ' set '),
               'text ' || coalesce(pg_get_function_sqlbody(p.oid), md5(p.prosrc)))
    from routine p
    union all
    select 'type', 'bisd.' || t.typname,
           case t.typtype
               when 'd' then concat_ws(' ', 'domain', format_type(t.typbasetype, t.typtypmod), case when t.typnotnull then 'not null' end,
                                       (select string_agg(pg_get_constraintdef(k.oid), ' ' order by k.conname)
                                        from pg_constraint k where k.contypid = t.oid and k.contype = 'c'))
               when 'e' then 'enum ' || (select string_agg(e.enumlabel, ', ' order by e.enumsortorder) from pg_enum e where e.enumtypid = t.oid)
               else 'row ' || (select string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' order by a.attnum)
                               from pg_attribute a where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped)
           end
    from pg_type t
    left join pg_class c on c.oid = t.typrelid
    where t.typnamespace = 'bisd'::regnamespace and (t.typtype in ('d', 'e') or c.relkind = 'c')
    union all
    select 'right', format('%s on %s', coalesce(g.rolname, 'everybody'), held.object),
           string_agg(lower(held.privilege), ', ' order by held.privilege)
    from (
        select acl.grantee, 'bisd.' || r.relname as object, acl.privilege_type as privilege
        from relation r cross join lateral aclexplode(r.relacl) acl
        union all
        select acl.grantee, format('bisd.%s.%s', r.relname, a.attname), acl.privilege_type
        from relation r join pg_attribute a on a.attrelid = r.oid and not a.attisdropped cross join lateral aclexplode(a.attacl) acl
        union all
        select acl.grantee, p.name, acl.privilege_type
        from routine p cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) acl
        union all
        select acl.grantee, 'schema bisd', acl.privilege_type
        from pg_namespace n cross join lateral aclexplode(n.nspacl) acl
        where n.nspname = 'bisd'
    ) held
    left join pg_roles g on g.oid = held.grantee
    where held.grantee = 0 or g.rolname in ('bisd_app', 'bisd_daemon', 'bisd_reader', 'bisd_admin')
    group by 2
)
select kind, name, regexp_replace(coalesce(definition, ''), '\s+', ' ', 'g') as definition
from thing
order by kind collate "C", name collate "C"
