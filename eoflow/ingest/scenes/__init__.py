"""Ingest of scenes: plan -> read -> harmonise -> check -> write -> commit, tile by tile."""
