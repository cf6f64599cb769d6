"""From raw studies to a curated dataset: Study -> Case or Dropped."""
