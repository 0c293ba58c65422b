from .claims import (
    Claim as Claim,
    Curves as Curves,
    Results as Results,
    State as State,
    read_results as read_results,
    write_results as write_results,
)
