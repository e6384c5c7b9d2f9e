//! How a headless session ended, from the event stream on its standard output.
