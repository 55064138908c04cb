-- The deliveries of event $1.
select * from bisd.delivery_status s where s.event_id = $1 order by s.webhook_id
