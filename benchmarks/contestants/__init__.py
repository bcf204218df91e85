"""Who is measured: netscript, a bare route, and in `peers` other queues."""
