-- What the daemon's role lacks: one row per right that current_user does not have.
select format('%s on %s', needed.privilege, needed.object) as missing
from (values
    ('select', 'bisd.webhook'), ('select', 'bisd.account'), ('select', 'bisd.plan'), ('select', 'bisd.event'),
    ('select', 'bisd.delivery'), ('update', 'bisd.delivery'), ('delete', 'bisd.delivery'), ('select', 'bisd.attempt'),
    ('insert', 'bisd.attempt'), ('select', 'bisd.migration')
) as needed (privilege, object)
where not has_table_privilege(needed.object, needed.privilege)
union all
select format('execute on %s', p.oid::regprocedure)
from pg_catalog.pg_proc p
where p.pronamespace = 'bisd'::regnamespace
  and p.proname in ('report', 'restamp', 'make_partitions', 'drop_partitions', 'forget_webhooks', 'forget_faults', 'forget_answers',
                    'seal_keys', 'beat', 'members', 'owing', 'recent', 'use_token')
  and not has_function_privilege(p.oid, 'execute')
