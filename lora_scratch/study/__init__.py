"""What an adapter learned: anatomy, trace, ablation, comparison, section 7."""
