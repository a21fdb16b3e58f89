//! What goes wrong by somebody's hand, and what comes of it.
//!
//! | what happens | what comes of it | |
//! |---|---|---|
//! | the run is deleted while its agent runs | a tombstone under its number, a disruption; the old pod ends before the next is created | [`deleted`] |
//! | the same with `--cascade=orphan` | the same | [`deleted`] |
//! | the job is deleted with `--cascade=orphan` | its run is closed, its pod ends | [`deleted`] |
//! | the pod is deleted by force | a disruption; its runner is sent away | [`deleted`] |
//! | the pod loses its labels | it is still the run's pod | [`deleted`] |
//! | a run, or a pod, that names another's job or run, here or in another namespace | nothing; it is said once | [`pretended`] |
//! | an object under the name of the next run | the job says so, and goes on when it is gone | [`pretended`] |
//! | a pod under a guessed name | nothing; names have a random part | [`pretended`] |
//! | a status that the API server does not take | ever fewer tries; log, metrics | [`refused`] |
//! | an end that Temporal does not wait for | ever fewer tries | [`refused`] |
//! | the job's status is emptied | it is derived anew; the agent runs on | [`blanked`] |
//! | runs beyond the one that the job's status speaks of | they are read, not overwritten | [`restored`] |

mod blanked;
mod deleted;
mod pretended;
mod refused;
mod restored;
