-- Forgets what is kept in no partition: as long as attempts, $1, webhooks that were removed before, and faults of attachments; and
-- for $2 what was answered to requests.
select bisd.forget_webhooks(now() - $1::interval), bisd.forget_faults(now() - $1::interval), bisd.forget_answers(now() - $2::interval)
