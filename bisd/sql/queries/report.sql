-- What is to be said of webhook $1: $2 the first failure since its last success, $3 how many since, $4 at how many percent of the
-- way to deactivation its owner was warned, $5 the next probe, $6 failed probes, $7 when deactivation would come, $8 why it is to
-- be deactivated (null: it is not), $9 what the last attempt failed with. False: to be said again, the row is locked.
select bisd.report($1, $2, $3, $4, $7, $5, $6, $8, $9)
