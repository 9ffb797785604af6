import { readFileSync } from 'node:fs';
import {
  formatProblem,
  loadManifests,
  type Loaded,
  type LoadOptions,
  type ManifestSource,
} from '../../manifests/load.ts';
import type { Severity } from '../../manifests/problem.ts';

/** A moment between two runs of every schedule in the tests. */
export const NOW = new Date('2026-01-21T10:07:30.5Z');

/** Loads texts as files `a.yaml`, `b.yaml`, … */
export function loadTexts(texts: readonly string[], options: Partial<LoadOptions> = {}): Loaded {
  const sources = texts.map((text, index) => ({ file: `${String.fromCharCode(97 + index)}.yaml`, text }));
  return loadManifests(sources, { now: NOW, ...options });
}

export function loadText(text: string, options: Partial<LoadOptions> = {}): Loaded {
  return loadTexts([text], options);
}

/** Loads files of `test/manifests/examples`. */
export function loadExamples(names: readonly string[], options: Partial<LoadOptions> = {}): Loaded {
  const sources: ManifestSource[] = names.map((file) => ({
    file,
    text: readFileSync(new URL(`examples/${file}`, import.meta.url), 'utf8'),
  }));
  return loadManifests(sources, { now: NOW, ...options });
}

/** The problems as people read them, of one severity or all. */
export function told(loaded: Loaded, severity?: Severity): string[] {
  return loaded.problems
    .filter((problem) => severity === undefined || problem.severity === severity)
    .map((problem) => formatProblem(problem));
}

/** `lines`, indented, below a Cluster's `spec`. */
export function clusterWith(spec: string): string {
  return `apiVersion: postgresql.cnpg.io/v1\nkind: Cluster\nmetadata: {name: orders}\nspec:\n${spec.replace(/^/gm, '  ')}\n`;
}

/** A Cluster whose object store has these fields beside `destinationPath`. */
export function clusterWithStore(fields: string, destinationPath = 's3://backups/postgres'): string {
  return clusterWith(
    `backup:\n  barmanObjectStore:\n    destinationPath: ${JSON.stringify(destinationPath)}\n${fields.replace(/^/gm, '    ')}`,
  );
}
