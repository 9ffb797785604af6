/** Whether the bucket of an S3 server stands in the host name (`virtual`) or in the path; `auto` goes by the kind of server. */
export const ADDRESSING_STYLES = ['auto', 'virtual', 'path'] as const;
export type AddressingStyle = (typeof ADDRESSING_STYLES)[number];
