import { createHash, randomUUID } from 'node:crypto';
import type { ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import { answer, refuse, startS3Double, type S3Double, type SeenRequest } from './s3-double.ts';

/** What a server of this kind does not do as S3 does. */
export interface Oddities {
  /** `true`: passes over If-None-Match; `refused`: answers 501 to it. */
  readonly ignoresCondition?: boolean | 'refused';
  readonly ignoresConditionInParts?: boolean;
  readonly ignoresChecksums?: boolean;
  readonly refusesBulkDelete?: boolean;
  readonly deniesDelete?: boolean;
  /** Gives all keys, whatever page was asked for. */
  readonly ignoresPages?: boolean;
  readonly ignoresStart?: boolean;
  readonly versioning?: 'Enabled' | 'Suspended' | 'denied';
  readonly objectLock?: 'default' | 'NotImplemented';
  /** Pauses before each answer and each effect, so that two writers meet at every place. */
  readonly latencyMs?: () => number;
  /** Told of each request first: answers it, lets it hang, or changes what is stored. @returns whether that was all */
  readonly intercept?: (
    request: SeenRequest,
    response: ServerResponse,
    objects: Map<string, StoredBytes>,
  ) => boolean;
  /** Listings show an object so long after it was stored. */
  readonly listLagMs?: number;
}

export interface S3ServerDouble extends S3Double {
  readonly objects: ReadonlyMap<string, StoredBytes>;
}

export interface StoredBytes {
  readonly bytes: Buffer;
  readonly metadata: Record<string, string>;
  readonly modifiedAt: Date;
}

/** A whole small S3 server in this process, which keeps what is put and is odd where it is told to be. */
export async function startS3ServerDouble(odd: Oddities = {}): Promise<S3ServerDouble> {
  const objects = new Map<string, StoredBytes>();
  const uploads = new Map<string, { metadata: Record<string, string>; parts: Map<number, Buffer> }>();

  const serve = (request: SeenRequest, response: ServerResponse): void => {
    const { method, key, query } = request;
    if (odd.intercept?.(request, response, objects)) return;
    if (key === '') return serveBucket(request, response);
    if (method === 'PUT' && query.has('partNumber')) {
      uploads.get(query.get('uploadId') ?? '')?.parts.set(Number(query.get('partNumber')), request.body);
      const sum = Buffer.alloc(4);
      sum.writeUInt32BE(crc32(request.body));
      return answer(response, 200, '', { 'x-amz-checksum-crc32': sum.toString('base64') });
    }
    if (method === 'POST' && query.has('uploads')) {
      const id = randomUUID();
      uploads.set(id, { metadata: metadataOf(request), parts: new Map() });
      const body = `<UploadId>${id}</UploadId>`;
      return answer(response, 200, `<InitiateMultipartUploadResult>${body}</InitiateMultipartUploadResult>`);
    }
    if (method === 'POST') return complete(request, response);
    if (method === 'PUT') return put(request, response);
    if (method === 'DELETE') {
      if (query.has('uploadId')) uploads.delete(query.get('uploadId') ?? '');
      else if (odd.deniesDelete) return refuse(response, 403, 'AccessDenied');
      else objects.delete(key);
      return answer(response, 204);
    }
    return read(request, response);
  };

  const serveBucket = (request: SeenRequest, response: ServerResponse): void => {
    const { method, query } = request;
    if (method === 'POST' && query.has('delete')) return deleteMany(request, response);
    if (query.has('versioning')) {
      if (odd.versioning === 'denied') return refuse(response, 403, 'AccessDenied');
      const status = odd.versioning === undefined ? '' : `<Status>${odd.versioning}</Status>`;
      return answer(response, 200, `<VersioningConfiguration>${status}</VersioningConfiguration>`);
    }
    if (query.has('object-lock')) {
      if (odd.objectLock === 'NotImplemented') return refuse(response, 501, 'NotImplemented');
      if (odd.objectLock === undefined) return refuse(response, 404, 'ObjectLockConfigurationNotFoundError');
      const rule = '<Rule><DefaultRetention><Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention></Rule>';
      const enabled = '<ObjectLockEnabled>Enabled</ObjectLockEnabled>';
      return answer(response, 200, `<ObjectLockConfiguration>${enabled}${rule}</ObjectLockConfiguration>`);
    }
    if (query.has('uploads'))
      return answer(
        response,
        200,
        '<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>',
      );
    return list(query, response);
  };

  const put = (request: SeenRequest, response: ServerResponse): void => {
    const { key, headers, body } = request;
    const sum = headers['x-amz-checksum-crc32'];
    const real = Buffer.alloc(4);
    real.writeUInt32BE(crc32(body));
    if (!odd.ignoresChecksums && sum !== undefined && sum !== real.toString('base64'))
      return refuse(response, 400, 'BadDigest');
    if (headers['if-none-match'] !== undefined) {
      if (odd.ignoresCondition === 'refused') return refuse(response, 501, 'NotImplemented');
      if (!odd.ignoresCondition && objects.has(key)) return refuse(response, 412, 'PreconditionFailed');
    }
    objects.set(key, { bytes: body, metadata: metadataOf(request), modifiedAt: new Date() });
    answer(response, 200, '', { etag: etagOf(body) });
  };

  const complete = ({ key, query, headers }: SeenRequest, response: ServerResponse): void => {
    const upload = uploads.get(query.get('uploadId') ?? '');
    if (!upload) return refuse(response, 404, 'NoSuchUpload');
    const ignores = odd.ignoresConditionInParts ?? odd.ignoresCondition === true;
    if (headers['if-none-match'] !== undefined && !ignores && objects.has(key))
      return refuse(response, 412, 'PreconditionFailed');
    const parts = [...upload.parts].toSorted(([a], [b]) => a - b).map(([, part]) => part);
    objects.set(key, {
      bytes: Buffer.concat(parts),
      metadata: upload.metadata,
      modifiedAt: new Date(),
    });
    const body = '<ETag>"parts"</ETag>';
    answer(response, 200, `<CompleteMultipartUploadResult>${body}</CompleteMultipartUploadResult>`);
  };

  const deleteMany = ({ body }: SeenRequest, response: ServerResponse): void => {
    if (odd.refusesBulkDelete) return refuse(response, 501, 'NotImplemented');
    const keys = [...body.toString('utf8').matchAll(/<Key>([^<]*)<\/Key>/g)].map(([, key = '']) => key);
    const results = keys.map((key) => {
      if (odd.deniesDelete) return `<Error><Key>${key}</Key><Code>AccessDenied</Code></Error>`;
      objects.delete(key);
      return `<Deleted><Key>${key}</Key></Deleted>`;
    });
    answer(response, 200, `<DeleteResult>${results.join('')}</DeleteResult>`);
  };

  const list = (query: URLSearchParams, response: ServerResponse): void => {
    const prefix = query.get('prefix') ?? '';
    const delimiter = query.get('delimiter');
    const after =
      query.get('continuation-token') ?? (odd.ignoresStart ? '' : (query.get('start-after') ?? ''));
    const max = odd.ignoresPages ? 1e9 : Number(query.get('max-keys') ?? 1000);
    const isShown = ({ modifiedAt }: StoredBytes) =>
      odd.listLagMs === undefined || Date.now() - modifiedAt.getTime() >= odd.listLagMs;
    const names = [...objects]
      .filter(([key, object]) => key.startsWith(prefix) && isShown(object))
      .map(([key]) => key)
      .toSorted(byBytes);
    const entries = [...new Set(names.map((key) => folderOr(key, prefix, delimiter)))].filter(
      (name) => byBytes(name, after) > 0,
    );
    const page = entries.slice(0, max);
    const isTruncated = entries.length > page.length;
    const xml = page.map((name) => {
      const object = objects.get(name);
      if (object === undefined) return `<CommonPrefixes><Prefix>${name}</Prefix></CommonPrefixes>`;
      const { bytes, modifiedAt } = object;
      return `<Contents><Key>${name}</Key><Size>${bytes.length}</Size><LastModified>${modifiedAt.toISOString()}</LastModified></Contents>`;
    });
    const next = isTruncated ? `<NextContinuationToken>${page.at(-1)}</NextContinuationToken>` : '';
    answer(
      response,
      200,
      `<ListBucketResult><IsTruncated>${isTruncated}</IsTruncated>${next}${xml.join('')}</ListBucketResult>`,
    );
  };

  const read = ({ method, key, headers }: SeenRequest, response: ServerResponse): void => {
    const object = objects.get(key);
    if (object === undefined) return refuse(response, 404, method === 'HEAD' ? 'NotFound' : 'NoSuchKey');
    const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(headers.range ?? '') ?? [];
    const begin = Number(from ?? 0);
    const end = to ? Math.min(Number(to) + 1, object.bytes.length) : object.bytes.length;
    if (from !== undefined && begin >= object.bytes.length) return refuse(response, 416, 'InvalidRange');
    const body = object.bytes.subarray(begin, end);
    const metadata = Object.entries(object.metadata);
    response.writeHead(from === undefined ? 200 : 206, {
      'content-length': body.length,
      'last-modified': object.modifiedAt.toUTCString(),
      etag: etagOf(object.bytes),
      ...(from === undefined ? {} : { 'content-range': `bytes ${begin}-${end - 1}/${object.bytes.length}` }),
      ...Object.fromEntries(metadata),
    });
    response.end(method === 'HEAD' ? undefined : body);
  };

  const { latencyMs } = odd;
  const double = await startS3Double((request, response) => {
    if (latencyMs === undefined) return serve(request, response);
    void (async () => {
      await sleep(latencyMs());
      serve(request, response);
    })();
  });
  return { ...double, objects };
}

const byBytes = (a: string, b: string) => Buffer.compare(Buffer.from(a), Buffer.from(b));
const etagOf = (bytes: Buffer) => `"${createHash('md5').update(bytes).digest('hex')}"`;

function metadataOf({ headers }: SeenRequest): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).flatMap(([name, value]) =>
      name.startsWith('x-amz-meta-') ? [[name, String(value)]] : [],
    ),
  );
}

/** The key, or the folder below the prefix that it lies in. */
function folderOr(key: string, prefix: string, delimiter: string | null): string {
  const at = delimiter === null ? -1 : key.indexOf('/', prefix.length);
  return at < 0 ? key : key.slice(0, at + 1);
}
