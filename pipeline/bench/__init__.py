"""`ablate bench`: ablate's own loop, input and overhead beside a bare loop and the other training libraries."""
