-- A namespace's executions of a phase that is rare there: by one of the two alone, all of the namespace or all of the phase
-- are read.
CREATE INDEX executions_namespace_phase ON executions (namespace, phase, fid);
