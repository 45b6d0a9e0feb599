"""From a judged model to the one in use: kept versions, dossiers, decisions, promotion."""
