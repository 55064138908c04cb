-- Sends a test payload to webhook $1; answers the test event's id.
select bisd.send_test($1)
