"""FastestDet (dog-qiuqiu, BSD-3): a detector of 240,000 parameters, and a task that knows its answer."""
