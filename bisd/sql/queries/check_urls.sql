-- The webhooks that are switched on, and their URLs.
select w.id, w.url from bisd.webhook w where w.enabled order by w.id
