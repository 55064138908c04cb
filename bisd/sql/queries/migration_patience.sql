-- Until this transaction ends, a lock that is not to be had within three seconds is given up: while one who migrates waits for a
-- table, everybody else waits behind it.
set local lock_timeout = '3s'
