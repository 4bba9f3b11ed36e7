-- Notices about family.

insert into loyalty_private.notice_kind
       (kind, place, is_chosen, can_be_refused, proof, context_function, example, optional)
values ('family_approval', 31, false, false, 'link', 'loyalty_private.challenge_context',
        '{"en": {"name": "Taro Yamada", "relation": "child"}, "ja": {"name": "山田 太郎", "relation": "child"}}', '[]'),
       ('family_invitation', 32, false, false, 'link', 'loyalty_private.challenge_context',
        '{"en": {"name": "Taro Yamada", "relation": "child"}, "ja": {"name": "山田 太郎", "relation": "child"}}', '[]'),
       ('family_ended', 33, false, false, null, null,
        '{"en": {"name": "Taro Yamada", "relation": "child"}, "ja": {"name": "山田 太郎", "relation": "child"}}', '[]');
