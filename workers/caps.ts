import type { Caps } from '../activities/cluster.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { parseDestination } from '../manifests/object-store-location.ts';
import type { FleetCaps } from './options.ts';

/** Where AWS is, when a manifest names no endpoint. */
const AWS = 's3.amazonaws.com';
const GOOGLE = 'storage.googleapis.com';

/**
 * Answers for a manifest how many backups may run at once beside its own; `undefined` where nobody asked for a cap.
 *
 * @param hostname of this machine: a directory is another one on another machine
 */
export function createCaps(
  caps: FleetCaps | undefined,
  hostname: string,
): (manifest: ClusterManifest) => Caps | undefined {
  return (manifest) => {
    if (caps?.perStore === undefined && caps?.perHost === undefined) return undefined;
    return { ...caps, store: placeOf(manifest, hostname) };
  };
}

/**
 * The place a Cluster's backups go to, equal for all that share its bandwidth: the endpoint's host and the bucket, or
 * the host and the directory. It becomes part of a workflow's id: of an address nothing but host and port is taken.
 */
export function placeOf(manifest: ClusterManifest, hostname: string): string {
  const store = manifest.spec.backup?.barmanObjectStore;
  return store ? placeOfStore(store, hostname) : `${hostname}/nowhere`;
}

/** Where a repository is, in the same words. */
export interface StoreAddress {
  readonly destinationPath: string;
  readonly endpointURL?: string | undefined;
}

/** As `createCaps`, for a restore: it takes a place where backups would write. */
export function createRestoreCaps(
  caps: FleetCaps | undefined,
  hostname: string,
): (store: Readonly<Record<string, unknown>>) => Caps | undefined {
  return ({ destinationPath, endpointURL }) => {
    if (caps?.perStore === undefined && caps?.perHost === undefined) return undefined;
    if (typeof destinationPath !== 'string') return undefined;
    const address = typeof endpointURL === 'string' ? { destinationPath, endpointURL } : { destinationPath };
    return { ...caps, store: placeOfStore(address, hostname) };
  };
}

function placeOfStore(store: StoreAddress, hostname: string): string {
  const destination = parseDestination(store.destinationPath);
  switch (destination.kind) {
    case 'file':
      return `${hostname}${destination.directory}`;
    case 'azure':
      return `${hostOf(destination.endpoint ?? destination.url)}/${destination.account}/${destination.container}`;
    case 's3':
      return `${hostOf(store.endpointURL) ?? AWS}/${destination.bucket}`;
    case 'gs':
      return `${hostOf(store.endpointURL) ?? GOOGLE}/${destination.bucket}`;
  }
}

/** Host and port of an address; `undefined` for what is none. */
function hostOf(address: string | undefined): string | undefined {
  return address !== undefined && URL.canParse(address) ? new URL(address).host.toLowerCase() : undefined;
}
