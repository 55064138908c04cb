-- How much of the server's queue of notifications is taken, 0 to 1.
select pg_notification_queue_usage()
