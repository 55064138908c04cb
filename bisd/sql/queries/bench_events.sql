-- Bench: how many events there are, and how many deliveries are owed.
select (select count(*) from bisd.event) as events, (select count(*) from bisd.delivery) as owed
