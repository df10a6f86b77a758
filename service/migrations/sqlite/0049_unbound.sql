-- Since when a name is bound to nothing, by the will of whoever runs the service: no token from before binds it anew.
ALTER TABLE bound_names ADD COLUMN unbound_at INTEGER;
