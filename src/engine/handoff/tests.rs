//! What is handed over is read as what was written.
