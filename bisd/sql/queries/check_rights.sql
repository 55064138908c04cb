-- What this role lacks: one row per right that current_user does not have, and the role that it would have it by. $1 whether it
-- must do what an operator does by the HTTP face.
with needed (role, functions) as (
    values
        ('bisd_daemon', array['report', 'restamp', 'make_partitions', 'drop_partitions', 'forget_webhooks', 'forget_faults',
                              'forget_answers', 'seal_keys', 'beat', 'members', 'owing', 'recent', 'use_token']),
        ('bisd_admin', array['create_account', 'rotate_key', 'set_plan', 'create_webhook', 'set_webhook', 'enable_webhook',
                             'disable_webhook', 'remove_webhook', 'send_test', 'emit', 'retry', 'cancel', 'replay',
                             'cancel_replay', 'create_token', 'revoke_token', 'attempts_before', 'delivery_of',
                             'last_of_delivery'])
)
select 'bisd_daemon' as role, format('%s on %s', lacked.privilege, lacked.object) as missing
from (values
    ('select', 'bisd.webhook'), ('select', 'bisd.account'), ('select', 'bisd.plan'), ('select', 'bisd.event'),
    ('select', 'bisd.delivery'), ('update', 'bisd.delivery'), ('delete', 'bisd.delivery'), ('select', 'bisd.attempt'),
    ('insert', 'bisd.attempt'), ('select', 'bisd.migration')
) as lacked (privilege, object)
where not has_table_privilege(lacked.object, lacked.privilege)
union all
select needed.role, format('execute on %s', p.oid::regprocedure)
from needed
join pg_catalog.pg_proc p on p.pronamespace = 'bisd'::regnamespace and p.proname = any (needed.functions)
where (needed.role = 'bisd_daemon' or $1) and not has_function_privilege(p.oid, 'execute')
