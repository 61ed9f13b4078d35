"""HTTP: blueprints, schemas, problem details. The only room that imports Flask."""
