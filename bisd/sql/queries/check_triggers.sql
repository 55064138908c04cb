-- Triggers that feed and wake the daemon and are missing, or switched off: one row each.
select format('%s on bisd.%s', needed.trigger, needed.source) as missing
from (values
    ('fan_out', 'event'), ('stamp', 'webhook'), ('changed', 'webhook'), ('changed', 'account'), ('changed', 'plan'),
    ('enliven', 'webhook'), ('keep', 'webhook'), ('lock', 'account'), ('lock', 'plan'),
    ('created', 'notification'), ('mark_sent', 'notification'), ('sent', 'notification')
) as needed (trigger, source)
where not exists (
    select from pg_catalog.pg_trigger t
    where t.tgrelid = format('bisd.%I', needed.source)::regclass and t.tgname = needed.trigger and t.tgenabled in ('O', 'A'))
