//! Both clients against a server that says exactly what a test wants, broken answers included.

mod canned;
mod chatwork;
mod hostile;
mod simsimi;

use std::time::Duration;

use chickwork_clients::Patience;

/// Long enough for a loaded machine to answer on loopback.
const PATIENT: Patience = Patience {
    connect: Duration::from_secs(3),
    call: Duration::from_secs(10),
};

/// Short, for the tests in which the time shall run out; and yet longer than a slow machine stands
/// still, as the request has to be on its way by then.
const IMPATIENT: Patience = Patience {
    connect: Duration::from_secs(3),
    call: Duration::from_secs(3),
};

fn install_tls() {
    // Fails from the second test on, because it is done then.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
