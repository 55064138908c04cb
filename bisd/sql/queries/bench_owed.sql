-- Bench: one delivery that is still owed to the webhooks from $1 to $2; by index, which passes over what is dead but once.
select event_id from bisd.delivery where webhook_id between $1::bigint and $2::bigint order by webhook_id, event_id limit 1
