"""What distillation methods need beside their losses."""
