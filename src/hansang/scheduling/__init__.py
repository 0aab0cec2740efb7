"""When and where a model runs: batching policy, queues, executors, deadlines."""
