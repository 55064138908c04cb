-- What time it is; and how many attempts of the last seconds were taken, and how many were not (bisd.recent).
select now() as at, r.seconds, r.delivered, r.failed from bisd.recent() r
