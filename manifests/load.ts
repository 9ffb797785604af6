import { closestName } from './closest-name.ts';
import { recognize, type KnownObject } from './kinds.ts';
import { DEFAULT_NAMESPACE, objectId } from './metadata.ts';
import type { ObjectStoreManifest } from './object-store-resource.ts';
import { formatPath, hasErrors, show, type FieldPath, type Finding, type Problem } from './problem.ts';
import { resolveObjectStores } from './resolve-object-stores.ts';
import { secretReferences, storeReferences, type SecretReference } from './secret-references.ts';
import { isRecord } from './unknown-fields.ts';
import { describeRoot, readYaml, type PlacedFinding, type SourceDocument } from './yaml-source.ts';

export { formatProblem, hasErrors, type Problem } from './problem.ts';

/** A text with manifests and the name it is told by: a file, or `standard input`. */
export interface ManifestSource {
  readonly file: string;
  readonly text: string;
}

export interface LoadOptions {
  /** For the next runs of schedules. */
  readonly now: Date;
  /** What `-n` says: of objects that name no namespace; one that names another is refused. */
  readonly namespace?: string;
  /** Unite maps that are given twice under one key, instead of refusing them. */
  readonly mergeDuplicateKeys?: boolean;
  /** Clusters (`namespace/name`) that were applied earlier: naming one of them is no reason for a warning. */
  readonly appliedClusters?: readonly string[];
  /** ObjectStores that were applied earlier; one of the same name in the set takes its place. */
  readonly objectStores?: readonly ObjectStoreManifest[];
}

/** A document of a kind walkeep knows. */
export type LoadedDocument = KnownObject & {
  readonly file: string;
  /** From 1. */
  readonly line: number;
};

/** A document of another kind: accepted, so that whole folders can be applied, and left alone. */
export interface ForeignDocument {
  readonly file: string;
  readonly line: number;
  readonly apiVersion: string;
  readonly kind: string;
  readonly name: string;
}

export interface Loaded {
  /**
   * Everything to apply, in the order it was written; empty when any document was refused. A Cluster has what the ObjectStores
   * it refers to say as its `barmanObjectStore`.
   */
  readonly documents: readonly LoadedDocument[];
  readonly foreign: readonly ForeignDocument[];
  /** In the order of the sources and their lines. Any of severity `error` refuses the whole set. */
  readonly problems: readonly Problem[];
  /** How many documents were read, refused ones included. */
  readonly count: number;
}

/** A document, and whom to tell what is found in it. */
export interface Entry {
  readonly document: LoadedDocument;
  readonly report: (finding: Finding) => void;
}

/**
 * Reads and validates a set of manifests. One refused document refuses all: `documents` is empty then. It never
 * throws for what the texts hold, and no problem shows the value of a Secret.
 */
export function loadManifests(sources: readonly ManifestSource[], options: LoadOptions): Loaded {
  const problems: Problem[] = [];
  const entries: Entry[] = [];
  const foreign: ForeignDocument[] = [];
  let count = 0;
  for (const { file, text } of sources) {
    const add = (placed: PlacedFinding) => problems.push(toProblem(file, placed));
    const read = readYaml(text, { mergeDuplicateKeys: options.mergeDuplicateKeys ?? false });
    if (read.length === 0)
      add({ line: 1, path: [], message: 'holds no document', fix: '', severity: 'warning' });
    for (const source of read) {
      source.problems.forEach(add);
      for (const { value, path } of objectsOf(source)) {
        count += 1;
        const report = (found: Finding) => add(source.place({ ...found, path: [...path, ...found.path] }));
        const line = source.place(finding(path, '')).line;
        const outcome = examine(value, options, report);
        if (outcome && 'foreign' in outcome) foreign.push({ ...outcome.foreign, file, line });
        else if (outcome) entries.push({ document: { ...outcome.object, file, line }, report });
      }
      if (source.value === undefined) count += 1;
    }
  }
  reviewSet(entries, options, hasErrors(problems));
  // A refused document may be the very ObjectStore that seems to be missing.
  const resolved = hasErrors(problems) ? [] : resolveObjectStores(entries, options.objectStores ?? []);
  const documents = hasErrors(problems) ? [] : resolved;
  return { documents, foreign, problems: inOrder(problems, sources), count };
}

function toProblem(file: string, { line, column, path, message, fix, severity }: PlacedFinding): Problem {
  const place = column === undefined ? { file, line } : { file, line, column };
  return { ...place, field: formatPath(path), message, fix, severity };
}

function inOrder(problems: readonly Problem[], sources: readonly ManifestSource[]): Problem[] {
  const position = new Map(sources.map(({ file }, index) => [file, index]));
  const indexOf = (problem: Problem) => position.get(problem.file) ?? 0;
  return problems.toSorted((a, b) => indexOf(a) - indexOf(b) || a.line - b.line);
}

function finding(
  path: FieldPath,
  message: string,
  fix = '',
  severity: Finding['severity'] = 'error',
): Finding {
  return { path, message, fix, severity };
}

/** The objects of a document: itself, or the items of a List, as kubectl and the API server write them. */
function objectsOf(source: SourceDocument): { value: unknown; path: FieldPath }[] {
  const { value } = source;
  if (value === undefined) return [];
  const isList = isRecord(value) && typeof value['kind'] === 'string' && value['kind'].endsWith('List');
  const items = isList ? value['items'] : undefined;
  if (!Array.isArray(items)) return [{ value, path: [] }];
  return items.map((item: unknown, index) => ({ value: item, path: ['items', index] }));
}

type Outcome = { object: KnownObject } | { foreign: { apiVersion: string; kind: string; name: string } };

function examine(
  value: unknown,
  options: LoadOptions,
  report: (finding: Finding) => void,
): Outcome | undefined {
  if (!isRecord(value)) {
    report(finding([], `is no manifest but ${describeRoot(value)}`, 'begin with apiVersion: and kind:'));
    return undefined;
  }
  const recognized = recognize(value);
  if ('finding' in recognized) {
    report(recognized.finding);
    return undefined;
  }
  const metadata = isRecord(value['metadata']) ? value['metadata'] : {};
  if ('foreign' in recognized) {
    const name = typeof metadata['name'] === 'string' ? metadata['name'] : '';
    const what = `${recognized.foreign.kind}${name === '' ? '' : ` ${show(name)}`}`;
    report(finding([], `${what} is accepted and not acted on: walkeep leaves it to Kubernetes`, '', 'note'));
    return { foreign: { ...recognized.foreign, name } };
  }
  if (metadata['name'] === undefined && metadata['generateName'] !== undefined) {
    const message = 'generateName makes a new name each time, so applying twice would do the work twice';
    report(finding(['metadata', 'generateName'], message, 'write metadata.name'));
    return undefined;
  }
  const { namespace = DEFAULT_NAMESPACE } = options;
  const given = metadata['namespace'];
  if (options.namespace !== undefined && typeof given === 'string' && given !== options.namespace) {
    const message = `${show(given)} is not the namespace asked for with -n: ${show(options.namespace)}`;
    report(finding(['metadata', 'namespace'], message, 'leave -n out, or correct one of the two'));
    return undefined;
  }
  const placed = isRecord(value['metadata'])
    ? { ...value, metadata: { ...metadata, namespace: given ?? namespace } }
    : value;
  const { object, findings } = recognized.known.examine(placed, options.now);
  findings.forEach(report);
  return object && { object };
}

/** What only the set as a whole shows. */
function reviewSet(entries: readonly Entry[], options: LoadOptions, refused: boolean): void {
  reviewTwins(entries);
  // A refused document may be the very Cluster that seems to be missing.
  if (!refused) reviewClusterNames(entries, options.appliedClusters ?? []);
  reviewPolicies(entries);
  reviewSecrets(entries);
}

function reviewTwins(entries: readonly Entry[]): void {
  const seen = new Map<string, LoadedDocument>();
  for (const { document, report } of entries) {
    const id = `${document.kind} ${objectId(document.manifest.metadata)}`;
    const twin = seen.get(id);
    if (twin) {
      const message = `${id} is in the set twice: here and at ${twin.file}:${twin.line}`;
      report(finding(['metadata', 'name'], message, 'remove one, or give it another name'));
    }
    seen.set(id, document);
  }
}

function reviewClusterNames(entries: readonly Entry[], applied: readonly string[]): void {
  const inSet = entries.flatMap(({ document: { kind, manifest } }) =>
    kind === 'Cluster' ? [objectId(manifest.metadata)] : [],
  );
  const known = [...inSet, ...applied];
  for (const { document, report } of entries) {
    for (const { name, path } of namedClusters(document)) {
      const { namespace } = document.manifest.metadata;
      if (known.includes(`${namespace}/${name}`)) continue;
      const elsewhere = known.find((id) => id.endsWith(`/${name}`));
      const closest = closestName(
        name,
        known.filter((id) => id.startsWith(`${namespace}/`)).map((id) => id.slice(namespace.length + 1)),
      );
      const fix =
        closest !== undefined
          ? `did you mean "${closest}"?`
          : elsewhere !== undefined
            ? `there is ${elsewhere}: an object and its Cluster share a namespace`
            : `apply the Cluster too${document.kind === 'Backup' ? '; without it the Backup fails after its deadline' : ''}`;
      const message = `Cluster ${show(name)} is not in this set and not applied in namespace ${namespace}: accepted, and pending until it comes`;
      report(finding(path, message, fix, 'warning'));
    }
  }
}

function namedClusters(document: LoadedDocument): { name: string; path: FieldPath }[] {
  switch (document.kind) {
    case 'Backup':
    case 'ScheduledBackup':
    case 'ScheduledVerification':
      return [{ name: document.manifest.spec.cluster.name, path: ['spec', 'cluster', 'name'] }];
    case 'BackupPolicy':
      return document.manifest.spec.clusters.map((name, index) => ({
        name,
        path: ['spec', 'clusters', index],
      }));
    case 'Cluster':
    case 'ObjectStore':
    case 'Secret':
      return [];
  }
}

function reviewPolicies(entries: readonly Entry[]): void {
  const policyOf = new Map<string, LoadedDocument>();
  for (const { document, report } of entries) {
    if (document.kind !== 'BackupPolicy') continue;
    document.manifest.spec.clusters.forEach((name, index) => {
      const id = `${document.manifest.metadata.namespace}/${name}`;
      const other = policyOf.get(id);
      if (other && other !== document) {
        const message = `Cluster ${show(name)} has a policy already: ${other.manifest.metadata.name} (${other.file}:${other.line})`;
        report(finding(['spec', 'clusters', index], message, 'name it in one policy only'));
      }
      policyOf.set(id, document);
    });
  }
}

/** A Secret of the set that lacks the key a Cluster or an ObjectStore of the set asks it for. */
function reviewSecrets(entries: readonly Entry[]): void {
  const keysOf = new Map<string, string[]>();
  for (const { document } of entries) {
    if (document.kind === 'Secret')
      keysOf.set(objectId(document.manifest.metadata), [...document.manifest.values.keys()]);
  }
  for (const { document, report } of entries) {
    for (const { name, key, path } of secretsOf(document)) {
      const keys = keysOf.get(`${document.manifest.metadata.namespace}/${name}`);
      if (!keys || keys.includes(key)) continue;
      const closest = closestName(key, keys);
      const fix = closest === undefined ? `it holds ${keys.join(', ')}` : `did you mean "${closest}"?`;
      report(
        finding([...path, 'key'], `Secret ${show(name)} of this set has no key ${show(key)}`, fix, 'warning'),
      );
    }
  }
}

function secretsOf({ kind, manifest }: LoadedDocument): SecretReference[] {
  if (kind === 'Cluster') return secretReferences(manifest);
  return kind === 'ObjectStore'
    ? storeReferences(manifest.spec.configuration, ['spec', 'configuration'])
    : [];
}
