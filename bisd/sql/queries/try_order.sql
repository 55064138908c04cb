-- Whether nobody else is carrying out the order that has the lock $1: until the transaction ends nobody will.
select pg_try_advisory_xact_lock($1::bigint)
