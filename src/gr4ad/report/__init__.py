"""A run for people to read: an HTML page and a model card, from the same plain data.

```python
from gr4ad.report import RunReport, write_report

write_report("out/report.html", RunReport("GR4AD on Amazon Beauty", training_log=trainer.state.log_history))
```
"""

from .contents import RunReport
from .evaluation_files import write_comparison, write_evaluation
from .model_card import write_model_card
from .page import write_report

__all__ = ["RunReport", "write_comparison", "write_evaluation", "write_model_card", "write_report"]
