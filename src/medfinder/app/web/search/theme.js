// Before anything is painted: the light or dark ground that was chosen last.
try { document.documentElement.dataset.theme = localStorage.getItem("theme") || "dark"; } catch { /* private mode: dark */ }
