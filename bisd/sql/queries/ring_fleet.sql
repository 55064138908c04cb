-- The bell, for the other members: the fleet has changed, count it again.
select pg_notify('bisd', 'fleet')
