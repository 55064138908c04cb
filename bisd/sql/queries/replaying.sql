-- How much is still to go of the replays to webhook $1.
select count(*) from bisd.delivery d where d.webhook_id = $1 and d.replayed
